// Some queries of a row that are worked on together, and which keys they see.
#pragma once

#include <algorithm>

#include "../../attention.h"
#include "vector.h"

namespace torchrec_gr::cpu {
namespace {

constexpr int kQueryBlock = 64;
constexpr int kKeyBlock = 64;
constexpr int kMostGroups = kQueryBlock / 8;  // of 8 queries or more

// A row of the batch: where its tokens begin, and how many they are.
struct Row {
  int64_t first_query;
  int64_t first_key;
  int num_queries;
  int num_keys;
};

inline Row row_of(const AttentionProblem& problem, int64_t row) {
  const int64_t *q = problem.q_offsets + row, *k = problem.k_offsets + row;
  return {q[0], k[0], static_cast<int>(q[1] - q[0]), static_cast<int>(k[1] - k[0])};
}

struct KeyRange {
  int begin = 0;
  int end = 0;

  bool operator==(const KeyRange&) const = default;
  bool empty() const { return begin >= end; }
  int size() const { return end - begin; }
  KeyRange intersect(KeyRange other) const {
    return {std::max(begin, other.begin), std::min(end, other.end)};
  }
  KeyRange unite(KeyRange other) const {
    if (empty()) return other;
    if (other.empty()) return *this;
    return {std::min(begin, other.begin), std::max(end, other.end)};
  }
  // The smallest range around this one that begins and ends at multiples of `step`.
  KeyRange in_steps_of(int step) const {
    return {begin / step * step, (end + step - 1) / step * step};
  }
};

// The span of a row's query, cut to the row.
inline Span span_of(const AttentionProblem& problem, const Row& row, int query) {
  const int64_t token = row.first_query + query;
  const int own =
      problem.own != nullptr ? problem.own[token] : row.num_keys - row.num_queries + query;
  return {std::max(problem.start[token], 0), std::min(problem.end[token], row.num_keys), own};
}

inline bool all_visible(const Span& span, int key) {
  return span.start <= key && key + kLanes <= span.end;
}

// Of the keys from `key` on, those that are seen: all bits set, or none.
inline Ints visible_lanes(const Span& span, int key) {
  const Ints keys = key + lane_numbers();
  return ((keys >= span.start) & (keys < span.end)) | (keys == span.own);
}

// Queries [first, first + count) of a row, in groups of kGroup: products with keys that nobody in a
// group sees are left out.
template <int kGroup>
class QueryBlock {
 public:
  QueryBlock(const AttentionProblem& problem, const Row& row, int first, int end)
      : first(first), count(std::min(end - first, kQueryBlock)) {
    for (int query = 0; query < count; ++query) {
      const Span span = spans[query] = span_of(problem, row, first + query);
      Seen& seen = seen_[query / kGroup];
      seen.by_span = seen.by_span.unite({span.start, span.end});
      if (span.own >= 0) seen.as_own = seen.as_own.unite({span.own, span.own + 1});
    }
    for (int group = 0; group < num_groups(); ++group) {
      const Seen& seen = seen_[group];
      all_seen_ = all_seen_.unite(seen.by_span).unite(seen.as_own);
    }
  }

  int num_groups() const { return (count + kGroup - 1) / kGroup; }
  int group_size(int group) const { return std::min(count - group * kGroup, kGroup); }

  // The blocks of keys among which are all that the queries see.
  KeyRange key_blocks() const {
    if (all_seen_.empty()) return {};
    return {all_seen_.begin / kKeyBlock, (all_seen_.end - 1) / kKeyBlock + 1};
  }

  // Of a block of keys, the part that a group sees, counted from the block's first key. The own
  // keys of candidates lie far from what else they see: the keys between cost nothing where they
  // fill a block.
  KeyRange visible_part(int group, int key_block) const {
    const int first_key = key_block * kKeyBlock;
    const KeyRange block{first_key, first_key + kKeyBlock};
    const Seen& seen = seen_[group];
    const KeyRange part = seen.by_span.intersect(block).unite(seen.as_own.intersect(block));
    if (part.empty()) return {};
    return {part.begin - first_key, part.end - first_key};
  }

  const int first;
  const int count;
  Span spans[kQueryBlock];

 private:
  struct Seen {
    KeyRange by_span;
    KeyRange as_own;
  };

  Seen seen_[kMostGroups];
  KeyRange all_seen_;
};

}  // namespace
}  // namespace torchrec_gr::cpu
