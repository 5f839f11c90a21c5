// The different ids of a batch, in order of first appearance.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <memory>
#include <vector>

#include "../../mix.h"
#include "grouping.h"
#include "shares.h"
#include "table_ids.h"

namespace torchrec_gr::embedding {

constexpr int64_t kMostIds = UINT32_MAX;  // of one batch

// An id of a table at a position. A table's ids are equal if their hashes are: mix is a bijection.
struct HashedId {
  uint64_t hash;
  uint32_t table;
  uint32_t position;

  bool same_id(const HashedId& other) const { return hash == other.hash && table == other.table; }
};

// Fills the first position of the same id, for each of the ids, which come in order of position.
inline void find_first(const HashedId* ids, int64_t num_ids, int group_bits, int64_t* firsts) {
  const auto num_places = std::bit_ceil(static_cast<uint64_t>(2 * num_ids + 2));
  const int shift = 64 - std::countr_zero(num_places);
  std::vector<uint32_t> numbers(num_places);  // of ids, from 1 on
  for (int64_t i = 0; i < num_ids; ++i) {
    uint64_t place = ids[i].hash << group_bits >> shift;
    while (numbers[place] != 0 && !ids[numbers[place] - 1].same_id(ids[i])) {
      place = (place + 1) & (num_places - 1);
    }
    if (numbers[place] == 0) numbers[place] = static_cast<uint32_t>(i + 1);
    firsts[ids[i].position] = ids[numbers[place] - 1].position;
  }
}

// Fills the first position of the same id, for every id. Ids are met in groups by their hash, each
// small enough for a cache.
inline void find_first_positions(const TableIds& ids, int64_t* firsts,
                                 const ParallelFor& parallel_for) {
  constexpr int64_t kGroup = 16 * 1024, kMostGroups = 256;
  const auto num_groups = std::bit_ceil(
      static_cast<uint64_t>(std::clamp<int64_t>(ids.count() / kGroup, 1, kMostGroups)));
  const int group_bits = std::countr_zero(num_groups);
  const auto for_each = [&](int64_t begin, int64_t end, const auto& visit) {
    ids.for_each_table(begin, end, [&](int64_t table, int64_t first, int64_t last) {
      const IdHash hash_of = map_hash(table);
      for (int64_t i = first; i < last; ++i) {
        const uint64_t hash = hash_of(ids.data[i]);
        visit(hash >> 32 >> (32 - group_bits),
              HashedId{hash, static_cast<uint32_t>(table), static_cast<uint32_t>(i)});
      }
    });
  };
  const auto hashed = std::make_unique_for_overwrite<HashedId[]>(ids.count());
  const auto starts = sort_by_group(ids.count(), num_groups, for_each, hashed.get(), parallel_for);
  parallel_for(num_groups, 1, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      find_first(&hashed[starts[group]], starts[group + 1] - starts[group], group_bits, firsts);
    }
  });
}

// Numbers the different ids in order of first appearance, table by table: `inverse`, which has the
// first positions, becomes the numbers. Returns the different ids; `starts` is where each table's
// begin among them, and behind them how many they are.
inline std::vector<int64_t> number_ids(const TableIds& ids, int64_t* inverse, int64_t* starts) {
  std::vector<int64_t> unique;
  for (int64_t table = 0; table < ids.num_tables; ++table) {
    starts[table] = static_cast<int64_t>(unique.size());
    for (int64_t i = ids.offsets[table]; i < ids.offsets[table + 1]; ++i) {
      if (inverse[i] == i) {
        inverse[i] = static_cast<int64_t>(unique.size());
        unique.push_back(ids.data[i]);
      } else {
        inverse[i] = inverse[inverse[i]];
      }
    }
  }
  starts[ids.num_tables] = static_cast<int64_t>(unique.size());
  return unique;
}

}  // namespace torchrec_gr::embedding
