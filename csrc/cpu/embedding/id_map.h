// The map from ids to slots: open addressing with linear probing over 64-bit entries. An entry is
// the upper half of its id's hash, then its slot + 1; 0 is no entry. An id's home is at its hash's
// first bits: so a map grows without a look at ids, and its entries keep their order. Which id and
// table an entry is of, the chunks say.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "../../mix.h"
#include "chunks.h"
#include "shares.h"
#include "table_ids.h"

namespace torchrec_gr::embedding {

constexpr int64_t kMinCapacity = 16;
constexpr int64_t kMaxCapacity = int64_t{1} << 32;

inline bool is_capacity(int64_t capacity) {
  return kMinCapacity <= capacity && capacity <= kMaxCapacity &&
         std::has_single_bit(static_cast<uint64_t>(capacity));
}

// The most entries that a map may have.
inline int64_t most_entries(int64_t capacity) { return capacity / 4 * 3; }

inline uint64_t entry_of(uint64_t hash, int64_t slot) {
  return (hash >> 32 << 32) | static_cast<uint64_t>(slot + 1);
}
inline int64_t slot_in(uint64_t entry) { return static_cast<int64_t>(entry & 0xffffffff) - 1; }
inline bool may_be_of(uint64_t entry, uint64_t hash) { return (entry ^ hash) >> 32 == 0; }

// The places 0:capacity, of which the first follows the last.
class Places {
 public:
  explicit Places(int64_t capacity)
      : mask_(capacity - 1), shift_(64 - std::countr_zero(static_cast<uint64_t>(capacity))) {}

  int64_t count() const { return mask_ + 1; }
  int64_t next(int64_t place) const { return (place + 1) & mask_; }
  int64_t distance(int64_t from, int64_t to) const { return (to - from) & mask_; }

  // Of a hash, or of an entry, which begins with the same bits.
  int64_t home(uint64_t hash) const { return static_cast<int64_t>(hash >> shift_); }

 private:
  int64_t mask_;
  int shift_;
};

// Entries beside the chunks that say whose they are; either may be const.
template <typename Entry, typename Id>
struct IdMap {
  Entry* entries;
  Places places;
  const Chunks<Id>& chunks;

  bool is_of(uint64_t entry, int64_t id, int64_t table) const {
    const int64_t slot = slot_in(entry);
    return chunks.has(slot) && *chunks.row(slot) == id && chunks.table(slot) == table;
  }

  // From a place on: the first that is empty or whose entry may be of the hash. Never asks for more
  // steps than there are places.
  int64_t first_candidate(int64_t place, uint64_t hash) const {
    for (int64_t step = 1; step < places.count(); ++step) {
      if (entries[place] == 0 || may_be_of(entries[place], hash)) break;
      place = places.next(place);
    }
    return place;
  }

  // The slot of an id whose first candidate is at `place`, or kNoSlot.
  int64_t slot_from(int64_t place, uint64_t hash, int64_t id, int64_t table) const {
    for (int64_t step = 0; step < places.count() && entries[place] != 0; ++step) {
      if (may_be_of(entries[place], hash) && is_of(entries[place], id, table)) {
        return slot_in(entries[place]);
      }
      place = places.next(place);
    }
    return kNoSlot;
  }
};

// Fills the slots of ids of one table: kNoSlot where an id is absent. What an id needs from memory
// is asked for while others are looked at.
template <typename Map>
void find_ids_of_table(const Map& map, const int64_t* ids, int64_t num_ids, int64_t table,
                       int64_t* slots) {
  constexpr int64_t kBlock = 64;
  const IdHash hash_of = map_hash(table);
  uint64_t hashes[kBlock];
  int64_t places[kBlock];
  for (int64_t begin = 0; begin < num_ids; begin += kBlock) {
    const int64_t size = std::min(kBlock, num_ids - begin);
    for (int64_t i = 0; i < size; ++i) {
      hashes[i] = hash_of(ids[begin + i]);
      __builtin_prefetch(&map.entries[map.places.home(hashes[i])]);
    }
    for (int64_t i = 0; i < size; ++i) {
      places[i] = map.first_candidate(map.places.home(hashes[i]), hashes[i]);
      const int64_t slot = slot_in(map.entries[places[i]]);
      if (map.chunks.has(slot)) __builtin_prefetch(map.chunks.row(slot));
    }
    for (int64_t i = 0; i < size; ++i) {
      slots[begin + i] = map.slot_from(places[i], hashes[i], ids[begin + i], table);
    }
  }
}

// The same for the ids of all tables.
template <typename Map>
void find_ids(const Map& map, const TableIds& ids, int64_t* slots,
              const ParallelFor& parallel_for) {
  constexpr int64_t kGrain = 4096;
  parallel_for(ids.count(), kGrain, [&](int64_t begin, int64_t end) {
    ids.for_each_table(begin, end, [&](int64_t table, int64_t first, int64_t last) {
      find_ids_of_table(map, ids.data + first, last - first, table, slots + first);
    });
  });
}

// Empties a place. Entries behind it move up as far as their homes allow, so that no empty place
// comes to lie between an entry and its home.
template <typename Map>
void erase(const Map& map, int64_t place) {
  const int64_t first = place;
  for (int64_t next = map.places.next(place); map.entries[next] != 0 && next != first;
       next = map.places.next(next)) {
    const int64_t home = map.places.home(map.entries[next]);
    if (map.places.distance(home, next) >= map.places.distance(place, next)) {
      map.entries[place] = map.entries[next];
      place = next;
    }
  }
  map.entries[place] = 0;
}

// Removes the entries of slots that the chunks have. Returns the index of the first slot without an
// entry, where it stops, or num_slots.
template <typename Map>
int64_t remove_slots(const Map& map, const int64_t* slots, int64_t num_slots) {
  constexpr int64_t kBlock = 64;
  uint64_t hashes[kBlock];
  for (int64_t begin = 0; begin < num_slots; begin += kBlock) {
    const int64_t size = std::min(kBlock, num_slots - begin);
    for (int64_t i = 0; i < size; ++i) __builtin_prefetch(map.chunks.row(slots[begin + i]));
    for (int64_t i = 0; i < size; ++i) {
      const int64_t slot = slots[begin + i];
      hashes[i] = map_hash(map.chunks.table(slot))(*map.chunks.row(slot));
      __builtin_prefetch(&map.entries[map.places.home(hashes[i])]);
    }
    for (int64_t i = 0; i < size; ++i) {
      const uint64_t entry = entry_of(hashes[i], slots[begin + i]);
      int64_t place = map.places.home(entry);
      for (int64_t step = 1; step < map.places.count(); ++step) {
        if (map.entries[place] == 0 || map.entries[place] == entry) break;
        place = map.places.next(place);
      }
      if (map.entries[place] != entry) return begin + i;
      erase(map, place);
    }
  }
  return num_slots;
}

}  // namespace torchrec_gr::embedding
