// Rows in chunks that never move, and slots, which name rows.
#pragma once

#include <cstdint>
#include <vector>

namespace torchrec_gr::embedding {

// slot = chunk_number << kRowBits | row_in_chunk
constexpr int kRowBits = 16;
constexpr int64_t kMaxRows = int64_t{1} << kRowBits;  // of a chunk
constexpr int64_t kMaxChunks = 65535;
constexpr int64_t kNoSlot = -1;

inline int64_t chunk_of(int64_t slot) { return slot >> kRowBits; }
inline int64_t row_of(int64_t slot) { return slot & (kMaxRows - 1); }
inline int64_t slot_of(int64_t chunk, int64_t row) { return chunk << kRowBits | row; }

// A chunk's rows of some values each.
template <typename T>
struct Chunk {
  T* data;
  int32_t num_rows;
  int32_t table = 0;
};

// Chunks whose rows have `width` values.
template <typename T>
struct Chunks {
  std::vector<Chunk<T>> list;
  int64_t width = 1;

  bool has(int64_t slot) const {
    const auto chunk = static_cast<uint64_t>(chunk_of(slot));
    return chunk < list.size() && row_of(slot) < list[chunk].num_rows;
  }

  int64_t table(int64_t slot) const { return list[chunk_of(slot)].table; }

  T* row(int64_t slot) const { return list[chunk_of(slot)].data + row_of(slot) * width; }

  // Into the cache, all of it.
  void prefetch(int64_t slot) const {
    if (slot == kNoSlot) return;
    const auto* line = reinterpret_cast<const char*>(row(slot));
    const char* end = line + width * static_cast<int64_t>(sizeof(T));
    for (; line < end; line += 64) __builtin_prefetch(line);
  }
};

}  // namespace torchrec_gr::embedding
