// The tile instructions of AMX in plain C++, for machines that lack them and for sanitizers, which
// do not see what tiles read and write. The kernels for AMX are compiled with this header's name in
// TORCHREC_GR_TILES_HEADER.
//
// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2: LDTILECFG,
// TILELOADD, TILESTORED, TILEZERO, TILERELEASE, TDPBF16PS. Where the hardware faults, the process
// ends with a message. The product differs in one thing: denormal numbers are not taken for zero.
#pragma once

#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#undef _tile_dpbf16ps
#undef _tile_loadconfig
#undef _tile_loadd
#undef _tile_release
#undef _tile_stored
#undef _tile_zero

namespace torchrec_gr::cpu {
namespace {

struct EmulatedTile {
  uint8_t num_rows = 0;  // 0: the tile has no shape
  uint16_t row_bytes = 0;
  uint32_t words[16][16] = {};  // each a float, or a pair of bfloat16
};

struct EmulatedTiles {
  bool configured = false;
  EmulatedTile tiles[8];
};

thread_local EmulatedTiles emulated_tiles;

inline void demand_of_tiles(bool holds, const char* instruction, const char* demand) {
  if (holds) return;
  std::fprintf(stderr, "%s: expected %s\n", instruction, demand);
  std::abort();
}

inline EmulatedTile& emulated_tile(const char* instruction, int number) {
  demand_of_tiles(emulated_tiles.configured, instruction, "tiles that are configured");
  demand_of_tiles(0 <= number && number < 8, instruction, "the number of one of 8 tiles");
  EmulatedTile& tile = emulated_tiles.tiles[number];
  demand_of_tiles(tile.num_rows > 0, instruction, "a tile that was given a shape");
  demand_of_tiles(tile.row_bytes % 4 == 0, instruction, "rows of whole words");
  return tile;
}

inline void _tile_loadconfig(const void* memory) {
  constexpr char kName[] = "_tile_loadconfig";
  struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[8], more_reserved[8];
    uint8_t rows[8], rest_reserved[8];
  } shapes;
  static_assert(sizeof shapes == 64);
  std::memcpy(&shapes, memory, sizeof shapes);
  emulated_tiles = {};
  if (shapes.palette == 0) return;
  demand_of_tiles(shapes.palette == 1, kName, "palette 0 or 1");
  demand_of_tiles(shapes.start_row == 0, kName, "start row 0");
  for (uint8_t byte : shapes.reserved) demand_of_tiles(byte == 0, kName, "zeros in reserved bytes");
  for (int tile = 0; tile < 8; ++tile) {
    const uint8_t rows = shapes.rows[tile];
    const uint16_t row_bytes = shapes.row_bytes[tile];
    demand_of_tiles(rows <= 16 && row_bytes <= 64, kName, "at most 16 rows of 64 bytes");
    demand_of_tiles((rows == 0) == (row_bytes == 0), kName, "neither rows nor bytes, or both");
    demand_of_tiles(shapes.more_reserved[tile] == 0 && shapes.rest_reserved[tile] == 0, kName,
                    "no more than 8 tiles");
    emulated_tiles.tiles[tile].num_rows = rows;
    emulated_tiles.tiles[tile].row_bytes = row_bytes;
  }
  emulated_tiles.configured = true;
}

inline void _tile_release() { emulated_tiles = {}; }

inline void _tile_zero(int number) {
  std::memset(emulated_tile("_tile_zero", number).words, 0, sizeof EmulatedTile::words);
}

// What lies beyond the tile's shape becomes zero.
inline void _tile_loadd(int number, const void* memory, int64_t stride) {
  EmulatedTile& tile = emulated_tile("_tile_loadd", number);
  std::memset(tile.words, 0, sizeof tile.words);
  for (int row = 0; row < tile.num_rows; ++row) {
    std::memcpy(tile.words[row], static_cast<const char*>(memory) + row * stride, tile.row_bytes);
  }
}

inline void _tile_stored(int number, void* memory, int64_t stride) {
  const EmulatedTile& tile = emulated_tile("_tile_stored", number);
  for (int row = 0; row < tile.num_rows; ++row) {
    std::memcpy(static_cast<char*>(memory) + row * stride, tile.words[row], tile.row_bytes);
  }
}

// sum += left * right, the even and the odd elements of the depth added up apart. A product of two
// bfloat16 is exact in a float, so that it does not matter whether it is fused with the addition.
// Touches registers alone: a sanitizer would find nothing, and takes long.
__attribute__((no_sanitize("address", "thread", "undefined"))) inline void multiply_add_tiles(
    EmulatedTile& sum, const EmulatedTile& left, const EmulatedTile& right) {
  const auto even_half = [](uint32_t pair) { return std::bit_cast<float>(pair << 16); };
  const auto odd_half = [](uint32_t pair) { return std::bit_cast<float>(pair & 0xffff0000u); };
  for (int row = 0; row < sum.num_rows; ++row) {
    float even[16] = {}, odd[16] = {};
    for (int k = 0; k < right.num_rows; ++k) {
      const float a = even_half(left.words[row][k]), b = odd_half(left.words[row][k]);
      for (int column = 0; column < 16; ++column) {
        even[column] += a * even_half(right.words[k][column]);
        odd[column] += b * odd_half(right.words[k][column]);
      }
    }
    for (int column = 0; column < sum.row_bytes / 4; ++column) {
      const float so_far = std::bit_cast<float>(sum.words[row][column]);
      sum.words[row][column] = std::bit_cast<uint32_t>(so_far + (even[column] + odd[column]));
    }
  }
}

inline void _tile_dpbf16ps(int sum_number, int left_number, int right_number) {
  constexpr char kName[] = "_tile_dpbf16ps";
  EmulatedTile& sum = emulated_tile(kName, sum_number);
  const EmulatedTile& left = emulated_tile(kName, left_number);
  const EmulatedTile& right = emulated_tile(kName, right_number);
  demand_of_tiles(
      sum_number != left_number && left_number != right_number && right_number != sum_number, kName,
      "three different tiles");
  demand_of_tiles(sum.num_rows == left.num_rows, kName, "as many rows in sum and left factor");
  demand_of_tiles(sum.row_bytes == right.row_bytes, kName, "rows of sum and right factor alike");
  demand_of_tiles(left.row_bytes == 4 * right.num_rows, kName, "factors of the same depth");
  multiply_add_tiles(sum, left, right);
}

}  // namespace
}  // namespace torchrec_gr::cpu
