// Random batches of ids for the harness of embedding tables, threads, and what a failed trial
// throws.
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cpu/embedding/shares.h"
#include "cpu/embedding/table_ids.h"
#include "mix.h"

namespace torchrec_gr::embedding {

using Key = std::pair<int64_t, int64_t>;  // table, id

constexpr int kThreadCounts[] = {1, 2, 3, 7};

// Shares on threads of their own, however little there is to do.
inline ParallelFor on_threads(int num_threads) {
  return [num_threads](int64_t count, int64_t, const Share& share) {
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < num_threads; ++thread) {
      const int64_t begin = count * thread / num_threads;
      const int64_t end = count * (thread + 1) / num_threads;
      if (begin < end) threads.emplace_back([&share, begin, end] { share(begin, end); });
    }
  };
}

class Failure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

inline void check(bool holds, const std::string& what) {
  if (!holds) throw Failure(what);
}

// Ids of some tables, table by table.
struct Batch {
  std::vector<int64_t> ids;
  std::vector<int64_t> offsets = {0};

  TableIds view() const {
    return {ids.data(), offsets.data(), static_cast<int64_t>(offsets.size()) - 1};
  }

  int64_t table_of(int64_t position) const {
    return std::upper_bound(offsets.begin(), offsets.end(), position) - offsets.begin() - 1;
  }
};

// x of mix(x): factors undo factors modulo 2^64, and a shift by more than half undoes itself.
inline uint64_t unmix(uint64_t x) {
  for (uint64_t factor : {0xc4ceb9fe1a85ec53, 0xff51afd7ed558ccd}) {
    uint64_t inverse = factor;  // right to 3 bits; every step doubles them
    for (int step = 0; step < 5; ++step) inverse *= 2 - factor * inverse;
    x = (x ^ (x >> 33)) * inverse;
  }
  return x ^ (x >> 33);
}

// The id of a hash in the map.
inline int64_t id_of_hash(uint64_t hash, int64_t table) {
  return static_cast<int64_t>(unmix(hash) ^ mix(static_cast<uint64_t>(table) + 1));
}

class Draw {
 public:
  explicit Draw(uint64_t seed) : random_(seed) {}

  int64_t below(int64_t bound) {
    return std::uniform_int_distribution<int64_t>(0, bound - 1)(random_);
  }

  // One of `variety` ids. Some are extreme. Some have hashes that begin alike, here and in other
  // tables, and that crowd at the ends of 64 regions.
  int64_t id(int64_t variety, int64_t table = 0) {
    constexpr int64_t kExtreme[] = {0, -1, 1, INT64_MIN, INT64_MAX, int64_t{1} << 32};
    const int64_t number = below(variety);
    if (number < std::ssize(kExtreme)) return kExtreme[number];
    if (number < 2000) return id_of_hash((static_cast<uint64_t>(number) << 58) - number, table);
    return static_cast<int64_t>(mix(number));
  }

  Batch batch(int64_t num_ids, int64_t num_tables, int64_t variety) {
    Batch batch;
    for (int64_t table = 1; table < num_tables; ++table)
      batch.offsets.push_back(below(num_ids + 1));
    batch.offsets.push_back(num_ids);
    std::sort(batch.offsets.begin(), batch.offsets.end());
    for (int64_t i = 0; i < num_ids; ++i) batch.ids.push_back(id(variety, batch.table_of(i)));
    return batch;
  }

 private:
  std::mt19937_64 random_;
};

}  // namespace torchrec_gr::embedding
