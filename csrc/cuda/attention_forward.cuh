// The forward pass: a block of threads takes a tile of queries of one row and one head through the
// tiles of keys that they see. Each warp owns 16 of the queries and keeps their sums in registers;
// nothing of the size of queries times keys leaves the registers.
#pragma once

#include "activation.cuh"
#include "scores.cuh"
#include "tile.cuh"

namespace torchrec_gr::cuda {

// Half the threads and half the keys where values are twice as long.
template <class T>
struct ForwardTiles {
  static constexpr bool kWide = sizeof(T) == 4;
  static constexpr int kWarps = kWide ? 2 : 4;
  static constexpr int kQueries = kFragment * kWarps;
  static constexpr int kKeys = kWide ? 32 : 64;
};

template <class T>
struct ForwardMemory {
  using Tiles = ForwardTiles<T>;
  Tile<T> q, k, v;
  QueryFacts* queries;
  KeyFacts* keys;
  double* first_of_bucket;
  size_t bytes;

  // Of v, the columns that the block sums up.
  TORCHREC_GR_HOST_DEVICE ForwardMemory(void* base, const AttentionProblem& problem,
                                        int num_columns) {
    SharedMemory memory(base);
    const int v_width = problem.v_dim < num_columns ? problem.v_dim : num_columns;
    q = memory.take_tile<T>(Tiles::kQueries, problem.qk_dim);
    k = memory.take_tile<T>(Tiles::kKeys, problem.qk_dim);
    v = memory.take_tile<T>(Tiles::kKeys, v_width);
    queries = memory.take<QueryFacts>(Tiles::kQueries);
    keys = memory.take<KeyFacts>(Tiles::kKeys);
    first_of_bucket = memory.take<double>(problem.bias.time_table.data ? kMaxTimeBuckets : 0);
    bytes = memory.bytes();
  }
};

// Grid: slots of queries, heads, parts of kColumns columns of the output.
template <class Activation, class T, int kColumns>
__global__ void __launch_bounds__(kWarpSize* ForwardTiles<T>::kWarps)
    attention_forward(AttentionProblem problem, AttentionOutput output, TimeBuckets buckets) {
  using Tiles = ForwardTiles<T>;
  extern __shared__ uint4 shared[];
  const ForwardMemory<T> memory(shared, problem, kColumns);
  const int head = blockIdx.y, first_column = blockIdx.z * kColumns;
  const Slot slot = find_slot(problem, problem.q_offsets, Tiles::kQueries, blockIdx.x);
  const Row& row = slot.row;
  const int num_queries = row.num_queries - slot.place;
  if (num_queries <= 0) return;
  const int64_t first_query = row.first_query + slot.place;

  load_tile<Tiles::kQueries>(
      memory.q, lines_of<T>(problem.q, head, first_query, num_queries, 0, problem.qk_dim));
  load_query_facts<Tiles::kQueries>(memory.queries, problem, row, slot.place);
  load_buckets(memory.first_of_bucket, problem, buckets);

  const HeadBias bias(problem, head, memory.first_of_bucket);
  const bool biased = bias.present();
  const Hull hull = hull_of<Tiles::kQueries>(problem, row, slot.place);
  const int first_line = kFragment * warp();
  const bool busy = first_line < num_queries;  // a warp past the row's end only helps to copy
  typename Activation::template Forward<T> activation;
  Accumulator sums[kColumns / kFragment];

  const auto load_k = [&](int place) {
    load_tile<Tiles::kKeys>(memory.k, lines_of<T>(problem.k, head, row.first_key + place,
                                                  row.num_keys - place, 0, problem.qk_dim));
  };
  const auto load_v = [&](int place) {
    load_tile<Tiles::kKeys>(
        memory.v, lines_of<T>(problem.v, head, row.first_key + place, row.num_keys - place,
                              first_column, problem.v_dim));
    load_key_facts<Tiles::kKeys>(memory.keys, problem, row, place);
  };
  // Copies overlap with products: v arrives during q.k, the next k during weights and sums.
  int place = hull.first_tile(Tiles::kKeys);
  if (place < hull.end()) load_k(place);
  while (place < hull.end()) {
    wait_for_copies();
    __syncthreads();  // k is there, and all warps are done with v
    load_v(place);
    Accumulator scores[Tiles::kKeys / kFragment];
    if (busy) multiply_lines(scores, memory.q, first_line, memory.k, memory.q.num_columns);
    wait_for_copies();
    __syncthreads();  // v is there, and all warps are done with k
    const int next = hull.next_tile(place, Tiles::kKeys);
    if (next < hull.end()) load_k(next);
    if (busy) {
      for_each_value(scores, [&](float& value, int query, int key) {
        value = score_of(value, memory.queries[first_line + query], memory.keys[key], place + key,
                         problem.alpha, bias, biased);
      });
      activation.weigh(scores, sums, problem.scale);
      multiply(sums, scores, memory.v, 0);
    }
    place = next;
  }
  wait_for_copies();  // of q, where no tile was met

  activation.finish(sums);
  store_lines(
      lines_of<T>(output.output, head, first_query, num_queries, first_column, problem.v_dim), sums,
      1.0f);
  if constexpr (Activation::kNormalised) {
    if (first_column == 0 && lane() % 4 == 0) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int query = first_line + lane() / 4 + 8 * half;
        if (query < num_queries) {
          output.log_sum_exp[(first_query + query) * problem.num_heads + head] =
              activation.log_sum_exp(half);
        }
      }
    }
  }
}

}  // namespace torchrec_gr::cuda
