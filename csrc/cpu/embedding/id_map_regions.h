// A map filled by several threads: each has regions of the places to itself, and what does not fit
// into its region is placed at the end, by one thread. The regions depend on sizes alone, so the
// same entries come to lie in the same places on any number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "grouping.h"
#include "id_map.h"
#include "shares.h"

namespace torchrec_gr::embedding {

// A map's places, cut into equal regions.
class Regions {
 public:
  // As many as pay for some entries.
  static int64_t fitting(const Places& places, int64_t num_entries) {
    constexpr int64_t kMany = 64, kFewEntries = 8192, kFewPlaces = 64 * 1024;
    return num_entries < kFewEntries || places.count() < kFewPlaces ? 1 : kMany;
  }

  Regions(const Places& places, int64_t count)
      : places_(places), count_(count), size_(places.count() / count) {}

  int64_t count() const { return count_; }
  int64_t size() const { return size_; }
  int64_t begin(int64_t region) const { return region * size_; }
  int64_t end(int64_t region) const { return (region + 1) * size_; }
  int64_t of(uint64_t hash) const { return places_.home(hash) / size_; }

 private:
  Places places_;
  int64_t count_;
  int64_t size_;
};

// Writes an entry to the first empty place from `place` on; false if there is none before `end`.
inline bool place_before(uint64_t* entries, int64_t place, int64_t end, uint64_t entry) {
  while (place < end && entries[place] != 0) ++place;
  if (place == end) return false;
  entries[place] = entry;
  return true;
}

// The same from the entry's home on, wherever the empty place is. There must be one.
inline void place_anywhere(uint64_t* entries, const Places& places, uint64_t entry) {
  const int64_t home = places.home(entry);
  if (!place_before(entries, home, places.count(), entry)) {
    place_before(entries, 0, home, entry);
  }
}

// How many of some places have entries.
inline int64_t count_entries(const uint64_t* entries, int64_t num_places) {
  int64_t count = 0;
  for (int64_t place = 0; place < num_places; ++place) count += entries[place] != 0;
  return count;
}

// Calls fill(region, spilled) for every region; fill puts what does not fit into `spilled`, which
// is placed at last, region by region.
template <typename Fill>
void fill_regions(uint64_t* entries, const Places& places, const Regions& regions,
                  const ParallelFor& parallel_for, const Fill& fill) {
  std::vector<std::vector<uint64_t>> spilled(regions.count());
  parallel_for(regions.count(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t region = begin; region < end; ++region) fill(region, spilled[region]);
  });
  for (const auto& of_region : spilled) {
    for (uint64_t entry : of_region) place_anywhere(entries, places, entry);
  }
}

// Writes ids to the rows of their slots and enters them. Ids must be absent and differ, as must
// slots, which the chunks must have; there must be places for all.
inline void insert_ids(const IdMap<uint64_t, int64_t>& map, const TableIds& ids,
                       const int64_t* slots, const ParallelFor& parallel_for) {
  constexpr int64_t kGrain = 4096, kAhead = 16;
  parallel_for(ids.count(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) *map.chunks.row(slots[i]) = ids.data[i];
  });
  const Regions regions(map.places, Regions::fitting(map.places, ids.count()));
  const auto for_each = [&](int64_t begin, int64_t end, const auto& visit) {
    ids.for_each_table(begin, end, [&](int64_t table, int64_t first, int64_t last) {
      const IdHash hash_of = map_hash(table);
      for (int64_t i = first; i < last; ++i) {
        const uint64_t entry = entry_of(hash_of(ids.data[i]), slots[i]);
        visit(regions.of(entry), entry);
      }
    });
  };
  const auto sorted = std::make_unique_for_overwrite<uint64_t[]>(ids.count());
  const auto starts =
      sort_by_group(ids.count(), regions.count(), for_each, sorted.get(), parallel_for);
  fill_regions(map.entries, map.places, regions, parallel_for,
               [&](int64_t region, std::vector<uint64_t>& spilled) {
                 for (int64_t i = starts[region]; i < starts[region + 1]; ++i) {
                   const uint64_t ahead = sorted[std::min(i + kAhead, starts[region + 1] - 1)];
                   __builtin_prefetch(&map.entries[map.places.home(ahead)], 1);
                   const int64_t home = map.places.home(sorted[i]);
                   if (!place_before(map.entries, home, regions.end(region), sorted[i])) {
                     spilled.push_back(sorted[i]);
                   }
                 }
               });
}

// Places the entries of a map into a larger one, which is empty.
inline void grow(const uint64_t* entries, const Places& places, uint64_t* larger,
                 const Places& larger_places, const ParallelFor& parallel_for) {
  const Regions regions(places, Regions::fitting(places, places.count()));
  const Regions larger_regions(larger_places, regions.count());
  fill_regions(larger, larger_places, larger_regions, parallel_for,
               [&](int64_t region, std::vector<uint64_t>& spilled) {
                 const auto place = [&](uint64_t entry) {
                   if (entry == 0 || regions.of(entry) != region) return;
                   const int64_t home = larger_places.home(entry);
                   if (!place_before(larger, home, larger_regions.end(region), entry)) {
                     spilled.push_back(entry);
                   }
                 };
                 for (int64_t i = 0; i < regions.size(); ++i) {
                   place(entries[regions.begin(region) + i]);
                 }
                 // Entries that lie behind their region do so without an empty place between.
                 int64_t behind = places.next(regions.end(region) - 1);
                 for (int64_t i = regions.size(); i < places.count() && entries[behind] != 0; ++i) {
                   place(entries[behind]);
                   behind = places.next(behind);
                 }
               });
}

}  // namespace torchrec_gr::embedding
