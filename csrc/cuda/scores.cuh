// From the product of a query and a key to their score: scaled, biased, hidden where the query does
// not see the key.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "../attention.h"
#include "../spans.h"
#include "../time_buckets.h"
#include "jagged_rows.cuh"

namespace torchrec_gr::cuda {

// The score of a key that the query does not see.
constexpr float kHidden = -std::numeric_limits<float>::infinity();

// Whatever a score, a weight or a gradient depends on beside the vectors.
struct QueryFacts {
  Span span;
  int32_t position;
  double time;
  float log_sum_exp;         // softmax alone
  float output_grad_output;  // output . grad_output; softmax alone
};

struct KeyFacts {
  double time;
  int32_t position;
};

// The smallest distance in time of every bucket. One logarithm of a distance in float is at most a
// bucket off, and a comparison puts it right: no logarithm of doubles for every pair.
struct TimeBuckets {
  double first[kMaxTimeBuckets];

  TimeBuckets() {
    for (int bucket = 0; bucket < kMaxTimeBuckets; ++bucket) {
      double distance = bucket == 0 ? 0.0 : std::exp(bucket * kLogBucketWidth) * (1 - 1e-13);
      while (time_bucket(distance, kMaxTimeBuckets) < bucket) {
        distance = std::nextafter(distance, std::numeric_limits<double>::infinity());
      }
      first[bucket] = distance;
    }
  }
};

__device__ inline int find_bucket(const double* first, int num_buckets, double elapsed) {
  const double distance = fabs(elapsed);
  if (distance < 1) return 0;
  const int last = num_buckets - 1;
  int bucket =
      static_cast<int>(__logf(static_cast<float>(distance)) / static_cast<float>(kLogBucketWidth));
  bucket = bucket < last ? bucket : last;
  if (distance < first[bucket]) return bucket - 1;
  return bucket < last && distance >= first[bucket + 1] ? bucket + 1 : bucket;
}

__device__ inline void load_buckets(double* first_of_bucket, const AttentionProblem& problem,
                                    const TimeBuckets& buckets) {
  if (!problem.bias.time_table.data) return;
  for (int i = threadIdx.x; i < kMaxTimeBuckets; i += blockDim.x) {
    first_of_bucket[i] = buckets.first[i];
  }
}

TORCHREC_GR_HOST_DEVICE inline int num_buckets(const BiasTable& time_table) {
  if (!time_table.data) return 0;
  return time_table.width < kMaxTimeBuckets ? static_cast<int>(time_table.width) : kMaxTimeBuckets;
}

// The bias of one head; what is absent is null.
struct HeadBias {
  const float* slope;
  const float* position_line;
  const float* time_line;
  int64_t last_position;  // max_seq_len - 1
  int num_buckets;
  const double* first_of_bucket;  // in shared memory

  __device__ HeadBias(const AttentionProblem& problem, int head, const double* first_of_bucket)
      : slope(problem.bias.slopes ? problem.bias.slopes + head : nullptr),
        position_line(line(problem.bias.position_table, head)),
        time_line(line(problem.bias.time_table, head)),
        last_position(problem.max_seq_len - 1),
        num_buckets(cuda::num_buckets(problem.bias.time_table)),
        first_of_bucket(first_of_bucket) {}

  __device__ bool present() const { return slope || position_line || time_line; }
  __device__ static int64_t distance(const QueryFacts& query, const KeyFacts& key) {
    return static_cast<int64_t>(key.position) - query.position;
  }
  __device__ int bucket(const QueryFacts& query, const KeyFacts& key) const {
    return find_bucket(first_of_bucket, num_buckets, query.time - key.time);
  }
  __device__ float operator()(const QueryFacts& query, const KeyFacts& key) const {
    float sum = 0;
    if (slope) sum -= __ldg(slope) * fabsf(static_cast<float>(distance(query, key)));
    if (position_line) sum += __ldg(position_line + distance(query, key) + last_position);
    if (time_line) sum += __ldg(time_line + bucket(query, key));
    return sum;
  }

 private:
  __device__ static const float* line(const BiasTable& table, int head) {
    return table.data ? table.data + head * table.head_stride : nullptr;
  }
};

// The score in the place of the product q.k.
__device__ __forceinline__ float score_of(float product, const QueryFacts& query,
                                          const KeyFacts& key, int key_place, float alpha,
                                          const HeadBias& bias, bool biased) {
  if (!sees(query.span, key_place)) return kHidden;
  return biased ? alpha * product + bias(query, key) : alpha * product;
}

__device__ inline void check_position(const AttentionProblem& problem, int position) {
  const bool in_table = problem.bias.position_table.data != nullptr;
  expect((in_table ? 0 : -kPositionBound) <= position &&
             position < (in_table ? problem.max_seq_len : kPositionBound),
         "bias.q_positions, bias.k_positions: expected positions from 0 to max_seq_len - 1 with a "
         "position table, from -2**30 to 2**30 - 1 without");
}

// A query past the row's end sees nothing.
__device__ inline QueryFacts query_facts(const AttentionProblem& problem, const Row& row,
                                         int query) {
  QueryFacts facts{{0, 0, -1}, 0, 0, 0, 0};
  if (query >= row.num_queries) return facts;
  const Bias& bias = problem.bias;
  const int64_t token = row.first_query + query;
  facts.span = span_of(problem, row, query);
  if (bias.uses_positions()) {
    expect(bias.q_positions || facts.span.own >= 0,
           "bias.q_positions: expected where a query has no key of its own (own = -1)");
    facts.position = bias.q_positions ? bias.q_positions[token] : facts.span.own;
    check_position(problem, facts.position);
  }
  if (bias.time_table.data) {
    expect(bias.q_times || facts.span.own >= 0,
           "bias.q_times: expected where a query has no key of its own (own = -1)");
    facts.time = static_cast<double>(bias.q_times ? bias.q_times[token]
                                                  : bias.k_times[row.first_key + facts.span.own]);
  }
  return facts;
}

__device__ inline KeyFacts key_facts(const AttentionProblem& problem, const Row& row, int key) {
  KeyFacts facts{0, 0};
  if (key >= row.num_keys) return facts;
  const Bias& bias = problem.bias;
  const int64_t token = row.first_key + key;
  if (bias.uses_positions()) {
    facts.position = bias.k_positions ? bias.k_positions[token] : key;
    check_position(problem, facts.position);
  }
  if (bias.time_table.data) facts.time = static_cast<double>(bias.k_times[token]);
  return facts;
}

template <int kQueries>
__device__ void load_query_facts(QueryFacts* facts, const AttentionProblem& problem, const Row& row,
                                 int first) {
  for (int i = threadIdx.x; i < kQueries; i += blockDim.x) {
    facts[i] = query_facts(problem, row, first + i);
  }
}

template <int kKeys>
__device__ void load_key_facts(KeyFacts* facts, const AttentionProblem& problem, const Row& row,
                               int first) {
  for (int i = threadIdx.x; i < kKeys; i += blockDim.x) {
    facts[i] = key_facts(problem, row, first + i);
  }
}

}  // namespace torchrec_gr::cuda
