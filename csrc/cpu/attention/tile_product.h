// Products of pairs of bfloat16 in AMX tiles: registers of 16 rows by 16 words, which one
// instruction multiplies.
#pragma once

#include <algorithm>
#include <type_traits>

#include "product.h"

namespace torchrec_gr::cpu {
namespace {

constexpr int kTile = 16;  // rows of a tile, and its columns of 32 bits

// A product goes by 16 rows and 32 columns of the sum; along the depth in whole tiles, then,
// through tiles of another shape, over the rest. The numbers are part of the instructions: macros.
#define TORCHREC_GR_SUM_0 0
#define TORCHREC_GR_SUM_1 1
#define TORCHREC_GR_LEFT 2
#define TORCHREC_GR_LEFT_REST 3
#define TORCHREC_GR_RIGHT_0 4
#define TORCHREC_GR_RIGHT_1 5
#define TORCHREC_GR_RIGHT_REST_0 6
#define TORCHREC_GR_RIGHT_REST_1 7

// The shapes of the tiles, as the instruction reads them.
struct alignas(64) TileShapes {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void set(int tile, int num_rows, int num_words) {
    rows[tile] = static_cast<uint8_t>(num_rows);
    row_bytes[tile] = static_cast<uint16_t>(num_words * sizeof(uint32_t));
  }
};

// The tiles of a thread while it computes. Their shapes are kept from product to product, since to
// change them takes time, and given up at the end, since others use the tiles too.
class TileSession {
 public:
  TileSession() { current() = this; }
  ~TileSession() {
    _tile_release();
    current() = nullptr;
  }
  TileSession(const TileSession&) = delete;
  TileSession& operator=(const TileSession&) = delete;

  static TileSession*& current() {
    static thread_local TileSession* session = nullptr;
    return session;
  }

  // For sums of `rows` rows, and a depth that leaves a rest of `rest` words.
  void shape(int rows, int rest) {
    if (rows == rows_ && (rest == rest_ || rest == 0)) return;
    rows_ = rows;
    rest_ = rest;
    TileShapes shapes;
    shapes.set(TORCHREC_GR_SUM_0, rows, kTile);
    shapes.set(TORCHREC_GR_SUM_1, rows, kTile);
    shapes.set(TORCHREC_GR_LEFT, rows, kTile);
    shapes.set(TORCHREC_GR_RIGHT_0, kTile, kTile);
    shapes.set(TORCHREC_GR_RIGHT_1, kTile, kTile);
    if (rest > 0) {
      shapes.set(TORCHREC_GR_LEFT_REST, rows, rest);
      shapes.set(TORCHREC_GR_RIGHT_REST_0, rest, kTile);
      shapes.set(TORCHREC_GR_RIGHT_REST_1, rest, kTile);
    }
    _tile_loadconfig(&shapes);
  }

 private:
  int rows_ = 0;
  int rest_ = 0;
};

// sum (+)= left * right for as many rows as the tiles have, and 16 or 32 columns.
template <Sum kSum, bool kTwo>
inline void multiply_tile_rows(int depth, ByRows<const uint32_t> left, ByRows<const uint32_t> right,
                               ByRows<float> sum) {
  const int64_t left_bytes = left.step * 4, right_bytes = right.step * 4, sum_bytes = sum.step * 4;
  if constexpr (kSum == Sum::kContinue) {
    _tile_loadd(TORCHREC_GR_SUM_0, sum.data, sum_bytes);
    if constexpr (kTwo) _tile_loadd(TORCHREC_GR_SUM_1, sum.data + kTile, sum_bytes);
  } else {
    _tile_zero(TORCHREC_GR_SUM_0);
    if constexpr (kTwo) _tile_zero(TORCHREC_GR_SUM_1);
  }
  int d = 0;
  for (; d + kTile <= depth; d += kTile) {
    const uint32_t* lines = right.at(d, 0).data;
    _tile_loadd(TORCHREC_GR_LEFT, left.data + d, left_bytes);
    _tile_loadd(TORCHREC_GR_RIGHT_0, lines, right_bytes);
    _tile_dpbf16ps(TORCHREC_GR_SUM_0, TORCHREC_GR_LEFT, TORCHREC_GR_RIGHT_0);
    if constexpr (kTwo) {
      _tile_loadd(TORCHREC_GR_RIGHT_1, lines + kTile, right_bytes);
      _tile_dpbf16ps(TORCHREC_GR_SUM_1, TORCHREC_GR_LEFT, TORCHREC_GR_RIGHT_1);
    }
  }
  if (d < depth) {
    const uint32_t* lines = right.at(d, 0).data;
    _tile_loadd(TORCHREC_GR_LEFT_REST, left.data + d, left_bytes);
    _tile_loadd(TORCHREC_GR_RIGHT_REST_0, lines, right_bytes);
    _tile_dpbf16ps(TORCHREC_GR_SUM_0, TORCHREC_GR_LEFT_REST, TORCHREC_GR_RIGHT_REST_0);
    if constexpr (kTwo) {
      _tile_loadd(TORCHREC_GR_RIGHT_REST_1, lines + kTile, right_bytes);
      _tile_dpbf16ps(TORCHREC_GR_SUM_1, TORCHREC_GR_LEFT_REST, TORCHREC_GR_RIGHT_REST_1);
    }
  }
  _tile_stored(TORCHREC_GR_SUM_0, sum.data, sum_bytes);
  if constexpr (kTwo) _tile_stored(TORCHREC_GR_SUM_1, sum.data + kTile, sum_bytes);
}

// sum[rows, columns] (+)= left[rows, depth] * right[depth, columns]. `columns` is a multiple of 16;
// depth counts pairs.
template <Sum kSum>
void multiply_in_tiles(int rows, int columns, int depth, ByRows<const uint32_t> left,
                       ByRows<const uint32_t> right, ByRows<float> sum) {
  asm volatile("" ::: "memory");  // the compiler doesn't know that loads of tiles read memory
  for (int row = 0; row < rows; row += kTile) {
    TileSession::current()->shape(std::min(rows - row, kTile), depth % kTile);
    int column = 0;
    for (; column + 2 * kTile <= columns; column += 2 * kTile) {
      multiply_tile_rows<kSum, true>(depth, left.at(row, 0), right.at(0, column),
                                     sum.at(row, column));
    }
    if (column < columns) {
      multiply_tile_rows<kSum, false>(depth, left.at(row, 0), right.at(0, column),
                                      sum.at(row, column));
    }
  }
}

#undef TORCHREC_GR_SUM_0
#undef TORCHREC_GR_SUM_1
#undef TORCHREC_GR_LEFT
#undef TORCHREC_GR_LEFT_REST
#undef TORCHREC_GR_RIGHT_0
#undef TORCHREC_GR_RIGHT_1
#undef TORCHREC_GR_RIGHT_REST_0
#undef TORCHREC_GR_RIGHT_REST_1

// Products of pairs of bfloat16 in tiles. Left factors must lie by rows.
struct TileWord : PairWord {
  using Session = TileSession;
  static constexpr int kDepthStep = kLanes;  // each new shape of tiles takes time to set up
  static constexpr int kGroup = kTile;
  static constexpr bool kTransposedByRows = true;
};

template <class Word, Sum kSum>
  requires std::is_same_v<Word, TileWord>
void multiply(int rows, int columns, int depth, LeftFactor<TileWord> left,
              ByRows<const uint32_t> right, ByRows<float> sum) {
  multiply_in_tiles<kSum>(rows, columns, depth, {left.data, left.row_step}, right, sum);
}

}  // namespace
}  // namespace torchrec_gr::cpu
