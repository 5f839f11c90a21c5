// Hashes of ids. Rows are initialised and owners are chosen by them: they never change.
#pragma once

#include <cstdint>

namespace torchrec_gr {

// A bijection of 64 bits of which every output bit depends on every input bit: the finaliser of
// MurmurHash3 (Appleby).
inline uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 33)) * 0xff51afd7ed558ccd;
  x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53;
  return x ^ (x >> 33);
}

// One hash of ids out of many, told apart by a salt.
class IdHash {
 public:
  explicit IdHash(uint64_t salt) : salt_(mix(salt)) {}

  uint64_t operator()(int64_t id) const { return mix(static_cast<uint64_t>(id) ^ salt_); }

 private:
  uint64_t salt_;
};

// The place of a table's ids in a map.
inline IdHash map_hash(int64_t table) { return IdHash(static_cast<uint64_t>(table) + 1); }

// Which process owns an id. Not by the bits of map_hash: the ids that a process owns would crowd
// into one stretch of its map.
class Owners {
 public:
  explicit Owners(int64_t num_owners) : num_owners_(static_cast<uint64_t>(num_owners)) {}

  int64_t operator()(int64_t id) const {
    return static_cast<int64_t>((static_cast<unsigned __int128>(hash_(id)) * num_owners_) >> 64);
  }

 private:
  uint64_t num_owners_;
  IdHash hash_{0x6f776e6572};  // "owner"
};

}  // namespace torchrec_gr
