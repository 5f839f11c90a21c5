// Which row a block works in, and which keys its queries see.
//
// The host knows how many tokens and rows there are, not how long a row is. So row b is given the
// slots offsets[b] / size + b to offsets[b + 1] / size + b + 1 for its tiles of `size` tokens: at
// least as many as it needs, and no list of tiles has to be made. The few that are left over find
// nothing to do.
#pragma once

#include <climits>
#include <cstdint>

#include "../attention.h"
#include "fragments.cuh"

namespace torchrec_gr::cuda {

inline int64_t num_slots(int64_t num_tokens, int64_t num_rows, int size) {
  return num_tokens / size + num_rows;
}

struct Row {
  int64_t first_query;
  int64_t first_key;
  int num_queries;
  int num_keys;
};

// A tile: `place` of its first token in the row; past the row's end for a slot that is left over.
struct Slot {
  Row row;
  int place;
};

// Every warp looks for itself, with 32 rows at a time.
__device__ inline int64_t find_row(const int64_t* offsets, int64_t num_rows, int size,
                                   int64_t slot) {
  int64_t low = 0, high = num_rows;  // the row is in [low, high)
  while (high - low > 1) {
    const int64_t step = (high - low + kWarpSize - 1) / kWarpSize;
    const int64_t row = low + lane() * step;
    const bool starts_before = row < high && offsets[row] / size + row <= slot;
    const int last = __popc(__ballot_sync(0xffffffff, starts_before)) - 1;
    low += last * step;
    high = low + step < high ? low + step : high;
  }
  return low;
}

__device__ inline Slot find_slot(const AttentionProblem& problem, const int64_t* offsets, int size,
                                 int64_t slot) {
  const int64_t b = find_row(offsets, problem.num_rows, size, slot);
  const int64_t* q = problem.q_offsets + b;
  const int64_t* k = problem.k_offsets + b;
  return {{q[0], k[0], static_cast<int>(q[1] - q[0]), static_cast<int>(k[1] - k[0])},
          static_cast<int>(slot - offsets[b] / size - b) * size};
}

// The keys of a query of the row, cut to those that there are.
__device__ inline Span span_of(const AttentionProblem& problem, const Row& row, int query) {
  const int64_t token = row.first_query + query;
  const int own = problem.own ? problem.own[token] : row.num_keys - row.num_queries + query;
  expect(
      (problem.own ? -1 : 0) <= own && own < row.num_keys,
      "spans.own: expected -1 (none) or a place among the keys of the row, and to be given where "
      "a row has more queries than keys");
  const int start = problem.start[token], end = problem.end[token];
  return {start > 0 ? start : 0, end < row.num_keys ? end : row.num_keys, own};
}

// A superset of the keys that a tile of queries sees: those of their spans and those they stand at.
struct Hull {
  int span_start = INT_MAX, span_end = 0, own_start = INT_MAX, own_end = 0;

  // The tiles of `size` keys that the hull meets, by the place of their first key: while < end().
  __device__ int first_tile(int size) const {
    return (span_start < own_start ? span_start : own_start) / size * size;
  }
  __device__ int next_tile(int tile, int size) const {
    do tile += size;
    while (tile < end() && !meets(tile, tile + size));
    return tile;
  }
  __device__ int end() const { return span_end > own_end ? span_end : own_end; }
  __device__ bool meets(int first, int last) const {
    return (span_start < last && first < span_end) || (own_start < last && first < own_end);
  }
};

__device__ inline int warp_min(int x) {
  for (int apart = kWarpSize / 2; apart > 0; apart /= 2) {
    const int other = __shfl_xor_sync(0xffffffff, x, apart);
    x = other < x ? other : x;
  }
  return x;
}

__device__ inline int warp_max(int x) { return -warp_min(-x); }

// Of the queries of the row from `first` on. Every warp finds it for itself.
template <int kQueries>
__device__ Hull hull_of(const AttentionProblem& problem, const Row& row, int first) {
  Hull hull;
  for (int query = first + lane(); query < first + kQueries && query < row.num_queries;
       query += kWarpSize) {
    const Span span = span_of(problem, row, query);
    if (span.start < span.end) {
      hull.span_start = span.start < hull.span_start ? span.start : hull.span_start;
      hull.span_end = span.end > hull.span_end ? span.end : hull.span_end;
    }
    if (span.own >= 0) {
      hull.own_start = span.own < hull.own_start ? span.own : hull.own_start;
      hull.own_end = span.own + 1 > hull.own_end ? span.own + 1 : hull.own_end;
    }
  }
  return {warp_min(hull.span_start), warp_max(hull.span_end), warp_min(hull.own_start),
          warp_max(hull.own_end)};
}

}  // namespace torchrec_gr::cuda
