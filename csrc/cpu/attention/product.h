// Products of small matrices, held in registers: the whole arithmetic weight of attention.
#pragma once

#include <algorithm>

#include "element.h"

namespace torchrec_gr::cpu {
namespace {

// The left factor of a product: word (row, depth) lies at data[row * row_step + depth *
// depth_step]. One of the steps is 1: a matrix is read as it lies, or transposed.
template <class Word>
struct LeftFactor {
  const typename Word::Type* data;
  int64_t row_step;
  int64_t depth_step;

  LeftFactor at(int row, int depth) const {
    return {data + row * row_step + depth * depth_step, row_step, depth_step};
  }
};

// A matrix that lies by rows, `step` words apart: the right factor [depth, columns], or the sum
// [rows, columns].
template <class Type>
struct ByRows {
  Type* data;
  int64_t step;

  ByRows at(int row, int column) const { return {data + row * step + column, step}; }
};

enum class Sum { kBegin, kContinue };  // overwrite what is there, or add to it

// sum[kRows, kVectors * kLanes] (+)= left * right, the sums staying in registers.
template <class Word, Sum kSum, int kRows, int kVectors>
inline void multiply_tile(int depth, LeftFactor<Word> left, ByRows<const typename Word::Type> right,
                          ByRows<float> sum) {
  using Vector = decltype(Word::load(right.data));
  Floats sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 3
    for (int vector = 0; vector < kVectors; ++vector) {
      const float* so_far = sum.data + row * sum.step + vector * kLanes;
      sums[row][vector] = kSum == Sum::kContinue ? load<Floats>(so_far) : Floats{};
    }
  }
  for (int d = 0; d < depth; ++d) {
    Vector line[kVectors];
#pragma GCC unroll 3
    for (int vector = 0; vector < kVectors; ++vector) {
      line[vector] = Word::load(right.data + d * right.step + vector * kLanes);
    }
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      const auto factor = left.data[row * left.row_step + d * left.depth_step];
#pragma GCC unroll 3
      for (int vector = 0; vector < kVectors; ++vector) {
        sums[row][vector] = Word::multiply_add(factor, line[vector], sums[row][vector]);
      }
    }
  }
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 3
    for (int vector = 0; vector < kVectors; ++vector) {
      store(sum.data + row * sum.step + vector * kLanes, sums[row][vector]);
    }
  }
}

// As many rows a tile as the registers hold: 32 of them with AVX-512, otherwise 16.
constexpr int kTileRows = TORCHREC_GR_VECTOR_BYTES == 64 ? 8 : 4;

template <class Word, Sum kSum, int kVectors>
void multiply_strip(int rows, int depth, LeftFactor<Word> left,
                    ByRows<const typename Word::Type> right, ByRows<float> sum) {
  int row = 0;
  for (; row + kTileRows <= rows; row += kTileRows) {
    multiply_tile<Word, kSum, kTileRows, kVectors>(depth, left.at(row, 0), right, sum.at(row, 0));
  }
  if (kTileRows == 8 && row + 4 <= rows) {
    multiply_tile<Word, kSum, 4, kVectors>(depth, left.at(row, 0), right, sum.at(row, 0));
    row += 4;
  }
  if (row + 2 <= rows) {
    multiply_tile<Word, kSum, 2, kVectors>(depth, left.at(row, 0), right, sum.at(row, 0));
    row += 2;
  }
  if (row < rows)
    multiply_tile<Word, kSum, 1, kVectors>(depth, left.at(row, 0), right, sum.at(row, 0));
}

// sum[rows, columns] (+)= left[rows, depth] * right[depth, columns]. `columns` is a multiple of
// kLanes; depth counts words.
template <class Word, Sum kSum>
void multiply(int rows, int columns, int depth, LeftFactor<Word> left,
              ByRows<const typename Word::Type> right, ByRows<float> sum) {
  int column = 0;
  for (; column + 2 * kLanes <= columns; column += 2 * kLanes) {
    multiply_strip<Word, kSum, 2>(rows, depth, left, right.at(0, column), sum.at(0, column));
  }
  if (column < columns) {
    multiply_strip<Word, kSum, 1>(rows, depth, left, right.at(0, column), sum.at(0, column));
  }
}

}  // namespace
}  // namespace torchrec_gr::cpu
