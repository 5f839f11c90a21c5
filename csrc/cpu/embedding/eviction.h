// Which rows to evict.
#pragma once

#include <algorithm>
#include <compare>
#include <cstdint>
#include <vector>

#include "chunks.h"
#include "shares.h"

namespace torchrec_gr::embedding {

// A row's place in the order of eviction.
struct Candidate {
  uint64_t key;
  int64_t id;
  int64_t slot;  // decides between equal ids of two tables

  auto operator<=>(const Candidate&) const = default;
};

enum class Policy { kLeastRecent, kLeastFrequent };

// seen: count, step last seen.
inline uint64_t eviction_key(const int32_t* seen, Policy policy) {
  const auto count = static_cast<uint32_t>(seen[0]), last = static_cast<uint32_t>(seen[1]);
  const bool by_last = policy == Policy::kLeastRecent;
  return static_cast<uint64_t>(by_last ? last : count) << 32 | (by_last ? count : last);
}

// The least of the candidates that are shown to it.
class Least {
 public:
  explicit Least(int64_t num) : num_(num) {}

  bool may_take(uint64_t key) const { return key <= greatest_key_; }

  void take(const Candidate& candidate) {
    candidates_.push_back(candidate);
    if (static_cast<int64_t>(candidates_.size()) >= 2 * num_ + kSpare) cut();
  }

  // Unordered, at most num.
  const std::vector<Candidate>& candidates() {
    if (static_cast<int64_t>(candidates_.size()) > num_) cut();
    return candidates_;
  }

 private:
  static constexpr int64_t kSpare = 1024;

  void cut() {
    const auto end = candidates_.begin() + num_;
    std::nth_element(candidates_.begin(), end, candidates_.end());
    greatest_key_ = end->key;
    candidates_.erase(end, candidates_.end());
  }

  int64_t num_;
  uint64_t greatest_key_ = UINT64_MAX;
  std::vector<Candidate> candidates_;
};

// The slots of the first `num` rows in order of eviction, among those of some chunks that have been
// seen, but not at `step` or later.
inline std::vector<int64_t> rows_to_evict(const Chunks<const int64_t>& ids,
                                          const Chunks<const int32_t>& seen,
                                          const std::vector<int64_t>& chunks, int64_t num,
                                          Policy policy, int64_t step,
                                          const ParallelFor& parallel_for) {
  std::vector<std::vector<Candidate>> found(chunks.size());
  parallel_for(static_cast<int64_t>(chunks.size()), 1, [&](int64_t begin, int64_t end) {
    Least least(num);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t chunk = chunks[i];
      for (int64_t row = 0; row < ids.list[chunk].num_rows; ++row) {
        const int32_t* of_row = seen.list[chunk].data + 2 * row;
        if (of_row[0] <= 0 || of_row[1] >= step) continue;
        const uint64_t key = eviction_key(of_row, policy);
        if (least.may_take(key)) least.take({key, ids.list[chunk].data[row], slot_of(chunk, row)});
      }
    }
    found[begin] = least.candidates();
  });
  Least least(num);
  for (const auto& of_share : found) {
    for (const Candidate& candidate : of_share) least.take(candidate);
  }
  std::vector<Candidate> first = least.candidates();
  std::ranges::sort(first);
  std::vector<int64_t> slots;
  for (const Candidate& candidate : first) slots.push_back(candidate.slot);
  return slots;
}

}  // namespace torchrec_gr::embedding
