// Products of 16 x 16 matrices on tensor cores, one warp at a time, accumulated in float32.
//
// A warp holds such a matrix in its registers, 8 values a lane. Value e of a lane lies at
//     row     lane / 4 + 8 * (e / 2 % 2)
//     column  2 * (lane % 4) + e % 2 + 8 * (e / 4)
// which is how mma.sync leaves a product. It is also how it takes a left factor, so the weights of
// an attention step are the left factor of the next without leaving the registers.
//
// float32 has no instruction of its own: every value is split into two tf32 (11 bits each), and
// three products of the parts give 22 bits, the small ones first. Tensor cores round sums toward
// zero, so they sum up no more than 8 of the depth, and an ordinary addition goes on from there.
// The instruction wants values c and c + 4 of a line in one lane, where a lane here holds 2 * c and
// 2 * c + 1; both factors are permuted alike, which the sum over them does not see.
//
// Source: the layouts: PTX ISA, "Matrix Fragments for mma.m16n8k16" and "m16n8k8"; the split:
// Ootomo and Yokota, 2203.03341.
#pragma once

#include <cstdint>

#include "instructions.cuh"
#include "tile.cuh"

namespace torchrec_gr::cuda {

constexpr int kWarpSize = 32;
constexpr int kFragment = 16;

__device__ inline int lane() { return threadIdx.x % kWarpSize; }
__device__ inline int warp() { return threadIdx.x / kWarpSize; }

struct Accumulator {
  float halves[2][4] = {};  // of columns 0-7 and of 8-15

  __device__ float& value(int e) { return halves[e / 4][e % 4]; }
  __device__ float value(int e) const { return halves[e / 4][e % 4]; }
};

// A lane's values lie in two rows, 8 apart: which of them.
__device__ constexpr int half_of(int e) { return e / 2 % 2; }
__device__ inline int row_of(int e) { return lane() / 4 + 8 * half_of(e); }
__device__ inline int column_of(int e) { return 2 * (lane() % 4) + e % 2 + 8 * (e / 4); }

// Calls visit(value, row, column) for every value that this lane holds of `kFragments` fragments
// side by side.
template <int kFragments, class Visit>
__device__ __forceinline__ void for_each_value(Accumulator (&fragments)[kFragments], Visit visit) {
#pragma unroll
  for (int f = 0; f < kFragments; ++f) {
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      visit(fragments[f].value(e), row_of(e), kFragment * f + column_of(e));
    }
  }
}

// A left factor, 16 rows by 16 of depth, and a right factor, 16 of depth by 16 columns.
template <class T>
struct LeftFactor;
template <class T>
struct RightFactor;

template <>
struct LeftFactor<BFloat16> {
  uint32_t pair[4];
};

template <>
struct RightFactor<BFloat16> {
  uint32_t pair[4];  // of columns 0-7, then of 8-15
};

template <>
struct LeftFactor<float> {
  float value[8];
};

template <>
struct RightFactor<float> {
  float value[8];  // of row right_depth_of(e) and column right_column_of(e)
};

__device__ inline int right_column_of(int e) { return lane() / 4 + 8 * (e / 4); }
__device__ inline int right_depth_of(int e) { return 2 * (lane() % 4) + e % 2 + 8 * half_of(e); }

// Lines of the tile are rows of the factor.
__device__ __forceinline__ void load_left(LeftFactor<BFloat16>& factor, Tile<BFloat16> tile,
                                          int first_line, int first_depth) {
  load_matrices(factor.pair, tile.at(first_line + lane() % 16, first_depth + lane() / 16 * 8));
}

__device__ __forceinline__ void load_left(LeftFactor<float>& factor, Tile<float> tile,
                                          int first_line, int first_depth) {
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    factor.value[e] = *tile.at(first_line + row_of(e), first_depth + column_of(e));
  }
}

// Lines of the tile are columns of the factor: multiplies by the tile transposed.
__device__ __forceinline__ void load_right_of_columns(RightFactor<BFloat16>& factor,
                                                      Tile<BFloat16> tile, int first_line,
                                                      int first_depth) {
  load_matrices(factor.pair, tile.at(first_line + lane() % 8 + lane() / 16 * 8,
                                     first_depth + lane() / 8 % 2 * 8));
}

__device__ __forceinline__ void load_right_of_columns(RightFactor<float>& factor, Tile<float> tile,
                                                      int first_line, int first_depth) {
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    factor.value[e] = *tile.at(first_line + right_column_of(e), first_depth + right_depth_of(e));
  }
}

// Lines of the tile are the depth: multiplies by the tile as it stands.
__device__ __forceinline__ void load_right_of_depth(RightFactor<BFloat16>& factor,
                                                    Tile<BFloat16> tile, int first_line,
                                                    int first_column) {
  load_matrices_transposed(factor.pair,
                           tile.at(first_line + lane() % 16, first_column + lane() / 16 * 8));
}

__device__ __forceinline__ void load_right_of_depth(RightFactor<float>& factor, Tile<float> tile,
                                                    int first_line, int first_column) {
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    factor.value[e] = *tile.at(first_line + right_depth_of(e), first_column + right_column_of(e));
  }
}

__device__ __forceinline__ void as_left(LeftFactor<BFloat16>& factor, const Accumulator& product) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    factor.pair[i] = round_to_bf16_pair(product.value(2 * i), product.value(2 * i + 1));
  }
}

__device__ __forceinline__ void as_left(LeftFactor<float>& factor, const Accumulator& product) {
#pragma unroll
  for (int e = 0; e < 8; ++e) factor.value[e] = product.value(e);
}

__device__ __forceinline__ void multiply_add(Accumulator& sum, const LeftFactor<BFloat16>& left,
                                             const RightFactor<BFloat16>& right) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {  // 8 of the columns
    const uint32_t b[2] = {right.pair[2 * half], right.pair[2 * half + 1]};
    mma_bf16(sum.halves[half], left.pair, b);
  }
}

__device__ __forceinline__ void split(float x, uint32_t& large, uint32_t& small) {
  large = round_to_tf32(x);
  small = round_to_tf32(x - __uint_as_float(large));
}

__device__ __forceinline__ void multiply_add(Accumulator& sum, const LeftFactor<float>& left,
                                             const RightFactor<float>& right) {
#pragma unroll
  for (int step = 0; step < 2; ++step) {  // 8 of the depth
    uint32_t large_a[4], small_a[4];
    constexpr int kOrder[4] = {0, 2, 1, 3};  // of the instruction's registers: first c, then c + 4
#pragma unroll
    for (int i = 0; i < 4; ++i) split(left.value[4 * step + kOrder[i]], large_a[i], small_a[i]);
#pragma unroll
    for (int half = 0; half < 2; ++half) {  // 8 of the columns
      uint32_t large_b[2], small_b[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        split(right.value[4 * half + 2 * step + i], large_b[i], small_b[i]);
      }
      float part[4] = {};
      mma_tf32(part, small_a, large_b);
      mma_tf32(part, large_a, small_b);
      mma_tf32(part, large_a, large_b);
#pragma unroll
      for (int i = 0; i < 4; ++i) sum.halves[half][i] += part[i];
    }
  }
}

// sums [16 x 16 * kFragments] += the 16 lines of `left` from first_line on, times `right`
// transposed: a dot product of every pair of lines, over `depth` columns, a multiple of 16.
template <class T, int kFragments>
__device__ __forceinline__ void multiply_lines(Accumulator (&sums)[kFragments], Tile<T> left,
                                               int first_line, Tile<T> right, int depth) {
  for (int first = 0; first < depth; first += kFragment) {
    LeftFactor<T> a;
    load_left(a, left, first_line, first);
#pragma unroll
    for (int f = 0; f < kFragments; ++f) {
      RightFactor<T> b;
      load_right_of_columns(b, right, kFragment * f, first);
      multiply_add(sums[f], a, b);
    }
  }
}

// sums [16 x 16 * kFragments] += left [16 x 16 * kDepth] times the columns of `right` from
// first_column on, as far as they go.
template <class T, int kFragments, int kDepth>
__device__ __forceinline__ void multiply(Accumulator (&sums)[kFragments],
                                         const Accumulator (&left)[kDepth], Tile<T> right,
                                         int first_column) {
#pragma unroll
  for (int d = 0; d < kDepth; ++d) {
    LeftFactor<T> a;
    as_left(a, left[d]);
#pragma unroll
    for (int f = 0; f < kFragments; ++f) {
      const int column = first_column + kFragment * f;
      if (column < right.num_columns) {
        RightFactor<T> b;
        load_right_of_depth(b, right, kFragment * d, column);
        multiply_add(sums[f], a, b);
      }
    }
  }
}

// Writes this warp's 16 lines of sums, times `factor`, as far as there are lines and columns.
template <class T, int kFragments>
__device__ __forceinline__ void store_lines(const Lines<T>& to, Accumulator (&sums)[kFragments],
                                            float factor) {
  const int first_line = kFragment * warp();
  for_each_value(sums, [&](float& value, int row, int column) {
    const int line = first_line + row;
    if (line < to.num_lines && column < to.num_columns) {
      store_value(to.data + line * to.stride + column, value * factor);
    }
  });
}

}  // namespace torchrec_gr::cuda
