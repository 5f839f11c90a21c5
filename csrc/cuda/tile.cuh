// Tiles of q, k, v and gradients in shared memory: where they lie, how they get there and how
// results leave.
#pragma once

#include <cstdint>

#include "../attention.h"
#include "instructions.cuh"

namespace torchrec_gr::cuda {

struct BFloat16 {
  uint16_t bits;
};

// Lines of a tensor, one a token; columns past the tensor's width, up to a multiple of 16, are 0.
template <class T>
struct Tile {
  T* data;
  int num_columns;

  // 16 bytes more than the columns take: 8 lines that are read together lie in different banks.
  TORCHREC_GR_HOST_DEVICE int stride() const {
    return num_columns + static_cast<int>(16 / sizeof(T));
  }
  __device__ T* at(int line, int column) const { return data + line * stride() + column; }
};

TORCHREC_GR_HOST_DEVICE inline int round_up(int x, int multiple) {
  return (x + multiple - 1) / multiple * multiple;
}

// Deals out a block's shared memory. The host counts the bytes with the same calls, from null.
class SharedMemory {
 public:
  TORCHREC_GR_HOST_DEVICE explicit SharedMemory(void* base)
      : base_(reinterpret_cast<uintptr_t>(base)) {}

  template <class T>
  TORCHREC_GR_HOST_DEVICE T* take(int count) {
    T* piece = reinterpret_cast<T*>(base_ + bytes_);
    bytes_ += (count * sizeof(T) + 15) / 16 * 16;
    return piece;
  }

  template <class T>
  TORCHREC_GR_HOST_DEVICE Tile<T> take_tile(int lines, int width) {
    Tile<T> tile{nullptr, round_up(width, 16)};
    tile.data = take<T>(lines * tile.stride());
    return tile;
  }

  TORCHREC_GR_HOST_DEVICE size_t bytes() const { return bytes_; }

 private:
  uintptr_t base_;
  size_t bytes_ = 0;
};

// The part of a tensor [tokens, heads, width] that a block reads or writes: of one head, from one
// token and one column on; past either end there is nothing.
template <class T>
struct Lines {
  T* data;
  int64_t stride;
  int num_lines;
  int num_columns;
};

template <class T>
__device__ Lines<T> lines_of(const Rows& rows, int head, int64_t first_token, int num_tokens,
                             int first_column, int width) {
  T* data = static_cast<T*>(rows.data) + first_token * rows.token_stride + head * rows.head_stride +
            first_column;
  return {data, rows.token_stride, num_tokens, width - first_column};
}

__device__ __forceinline__ float as_float(float x) { return x; }
__device__ __forceinline__ float as_float(BFloat16 x) {
  return __uint_as_float(static_cast<uint32_t>(x.bits) << 16);
}

template <class T>
__device__ __forceinline__ void store_value(T* place, float value) {
  if constexpr (sizeof(T) == 4) {
    *place = value;
  } else {
    place->bits = static_cast<uint16_t>(round_to_bf16_pair(value, 0.0f));
  }
}

// Copies pieces of kBytes; those that reach past a line's end go value by value, with zeros.
template <int kBytes, int kLines, class T>
__device__ __forceinline__ void copy_lines(Tile<T> tile, const Lines<T>& source) {
  constexpr int kValues = kBytes / sizeof(T);
  const int pieces = tile.num_columns / kValues;  // a line
  const int lines_on = blockDim.x / pieces, pieces_on = blockDim.x % pieces;
  int line = threadIdx.x / pieces, piece = threadIdx.x % pieces;
  while (line < kLines) {
    const int column = piece * kValues;
    const int left = line < source.num_lines ? source.num_columns - column : 0;
    T* to = tile.at(line, column);
    const T* from = source.data + line * source.stride + column;
    if (left >= kValues) {
      copy_async<kBytes>(to, from);
    } else {
      for (int i = 0; i < kValues; ++i) to[i] = i < left ? from[i] : T{};
    }
    line += lines_on;
    piece += pieces_on;
    if (piece >= pieces) {
      piece -= pieces;
      ++line;
    }
  }
}

// Fills a tile of kLines, by all threads of the block, in the largest pieces that the alignment
// permits; lines that the source lacks become 0. Complete after wait_for_copies() and a barrier.
template <int kLines, class T>
__device__ __forceinline__ void load_tile(Tile<T> tile, const Lines<T>& source) {
  const uint64_t alignment = reinterpret_cast<uintptr_t>(source.data) | source.stride * sizeof(T);
  if (alignment % 16 == 0) {
    copy_lines<16, kLines>(tile, source);
  } else if (sizeof(T) == 4 || alignment % 4 == 0) {
    copy_lines<4, kLines>(tile, source);
  } else {
    copy_lines<sizeof(T), kLines>(tile, source);
  }
}

}  // namespace torchrec_gr::cuda
