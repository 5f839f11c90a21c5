// Gradients of the bias tables. Many pairs of query and key share an entry; so that the sums have
// one order and need no atomic addition, a few blocks a head work through all tiles, each with a
// partial table of its own, and add_partial_tables() adds those up.
//
// In a block, two warps compute the gradients of a tile's scores and leave them in shared memory;
// from there warp 1 adds them to slopes and buckets and warp 0 to positions:
//  - slopes and buckets: a lane takes the keys of one query, and has its own sum and buckets;
//  - positions: a key at a time, a lane a query. Queries at different positions meet different
//    entries; those at the same position are merged into the first of them beforehand.
#pragma once

#include "attention_backward.cuh"

namespace torchrec_gr::cuda {

struct BiasTiles {
  static constexpr int kWarps = 2;
  static constexpr int kQueries = kFragment * kWarps;  // one a lane
  static constexpr int kKeys = kWarpSize;              // one a lane, too
};

// A partial table, one head's gradients side by side: [slope | positions | buckets].
struct TableEntries {
  int64_t positions;
  int64_t buckets;

  explicit TableEntries(const Bias& bias)
      : positions(bias.position_table.data ? bias.position_table.width : 0),
        buckets(bias.time_table.data ? bias.time_table.width : 0) {}
  TORCHREC_GR_HOST_DEVICE int64_t count() const { return 1 + positions + buckets; }
};

template <class T>
struct BiasMemory {
  BackwardMemory<T, BiasTiles::kQueries, BiasTiles::kKeys> tiles;
  float* grad_scores;  // [kQueries, kKeys + 1]
  float* slopes;       // [kQueries]
  float* buckets;      // [num_buckets, kQueries]
  float* positions;    // [positions]; null: there is no room, sums stand in the partial table
  size_t bytes;

  TORCHREC_GR_HOST_DEVICE BiasMemory(void* base, const AttentionProblem& problem,
                                     int64_t num_positions, bool room_for_positions)
      : tiles(base, problem) {
    SharedMemory memory(static_cast<char*>(base) + tiles.bytes);
    grad_scores = memory.take<float>(BiasTiles::kQueries * (BiasTiles::kKeys + 1));
    slopes = memory.take<float>(BiasTiles::kQueries);
    buckets = memory.take<float>(num_buckets(problem.bias.time_table) * BiasTiles::kQueries);
    positions = memory.take<float>(room_for_positions ? static_cast<int>(num_positions) : 0);
    if (!room_for_positions) positions = nullptr;
    bytes = tiles.bytes + memory.bytes();
  }

  __device__ float& grad_score(int query, int key) const {
    return grad_scores[query * (BiasTiles::kKeys + 1) + key];
  }
};

__device__ inline void fill_zeros(float* values, int64_t count) {
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) values[i] = 0;
}

// Leaves the tile's gradients in shared memory; 0 where a query does not see a key.
template <class Activation, class T>
__device__ void compute_grad_scores(const BiasMemory<T>& memory, const AttentionProblem& problem,
                                    const HeadBias& bias, int first_key) {
  Accumulator weights[BiasTiles::kKeys / kFragment], grads[BiasTiles::kKeys / kFragment];
  weights_and_gradients<Activation, false>(weights, grads, memory.tiles, problem, bias, true,
                                           first_key);
  for_each_value(grads, [&](float& value, int query, int key) {
    memory.grad_score(kFragment * warp() + query, key) = value;
  });
}

template <class T>
__device__ void add_slopes_and_buckets(const BiasMemory<T>& memory, const HeadBias& bias) {
  const QueryFacts query = memory.tiles.queries[lane()];
  for (int j = 0; j < BiasTiles::kKeys; ++j) {
    const float grad = memory.grad_score(lane(), j);
    if (grad == 0) continue;
    const KeyFacts key = memory.tiles.keys[j];
    memory.slopes[lane()] -= grad * fabsf(static_cast<float>(HeadBias::distance(query, key)));
    if (bias.time_line) {
      memory.buckets[bias.bucket(query, key) * BiasTiles::kQueries + lane()] += grad;
    }
  }
}

// The first query of the tile at the position of this lane's query.
template <class T>
__device__ int first_at_position(const BiasMemory<T>& memory, int num_queries) {
  if (lane() >= num_queries) return lane();
  int first = 0;
  while (memory.tiles.queries[first].position != memory.tiles.queries[lane()].position) ++first;
  return first;
}

// Adds the gradients of every query to those of the first query at its position. A lane a key.
template <class T>
__device__ void merge_queries(const BiasMemory<T>& memory, int first_at_position) {
  for (int query = 0; query < BiasTiles::kQueries; ++query) {
    const int first = __shfl_sync(0xffffffff, first_at_position, query);
    if (first == query) continue;
    memory.grad_score(first, lane()) += memory.grad_score(query, lane());
    memory.grad_score(query, lane()) = 0;
  }
  __syncwarp();
}

template <class T>
__device__ void add_positions(const BiasMemory<T>& memory, const HeadBias& bias, float* positions) {
  const QueryFacts query = memory.tiles.queries[lane()];
  for (int j = 0; j < BiasTiles::kKeys; ++j) {
    const float grad = memory.grad_score(lane(), j);
    if (grad != 0) {
      positions[HeadBias::distance(query, memory.tiles.keys[j]) + bias.last_position] += grad;
    }
    __syncwarp();  // the next key may meet the same entry from another lane
  }
}

// Grid: partial tables, heads. `partial_tables` [partial tables, heads, entries].
template <class Activation, class T>
__global__ void __launch_bounds__(kWarpSize* BiasTiles::kWarps)
    bias_gradients(AttentionProblem problem, AttentionGradients gradients,
                   const float* output_grad_output, TimeBuckets buckets, float* partial_tables,
                   TableEntries entries, int64_t num_query_slots, bool room_for_positions) {
  constexpr int kQueries = BiasTiles::kQueries, kKeys = BiasTiles::kKeys;
  extern __shared__ uint4 shared[];
  const BiasMemory<T> memory(shared, problem, entries.positions, room_for_positions);
  const int head = blockIdx.y;
  const HeadBias bias(problem, head, memory.tiles.first_of_bucket);
  float* table =
      partial_tables + (static_cast<int64_t>(blockIdx.x) * gridDim.y + head) * entries.count();
  float* positions = room_for_positions ? memory.positions : table + 1;
  load_buckets(memory.tiles.first_of_bucket, problem, buckets);
  fill_zeros(memory.slopes, kQueries);
  fill_zeros(memory.buckets, bias.num_buckets * kQueries);
  fill_zeros(positions, entries.positions);

  for (int64_t slot_index = blockIdx.x; slot_index < num_query_slots; slot_index += gridDim.x) {
    const Slot slot = find_slot(problem, problem.q_offsets, kQueries, slot_index);
    const Row& row = slot.row;
    const int num_queries = row.num_queries - slot.place;
    if (num_queries <= 0) continue;
    __syncthreads();  // all are done with the tile before
    memory.tiles.load_queries(problem, gradients, output_grad_output, head, row, slot.place);
    wait_for_copies();
    __syncthreads();
    const int first = first_at_position(memory, num_queries);
    const bool positions_repeat = __ballot_sync(0xffffffff, first != lane()) != 0;
    const Hull hull = hull_of<kQueries>(problem, row, slot.place);
    for (int place = hull.first_tile(kKeys); place < hull.end();
         place = hull.next_tile(place, kKeys)) {
      __syncthreads();  // all are done with the tile before
      memory.tiles.load_keys(problem, head, row, place);
      wait_for_copies();
      __syncthreads();
      compute_grad_scores<Activation>(memory, problem, bias, place);
      __syncthreads();
      if (warp() == 1) add_slopes_and_buckets(memory, bias);
      if (!bias.position_line) continue;
      if (positions_repeat) __syncthreads();  // warp 1 has read what merging changes
      if (warp() == 0) {
        if (positions_repeat) merge_queries(memory, first);
        add_positions(memory, bias, positions);
      }
    }
  }

  __syncthreads();
  if (threadIdx.x == 0) {
    table[0] = 0;
    for (int i = 0; i < kQueries; ++i) table[0] += memory.slopes[i];
  }
  if (room_for_positions) {
    for (int64_t i = threadIdx.x; i < entries.positions; i += blockDim.x) {
      table[1 + i] = positions[i];
    }
  }
  for (int64_t i = threadIdx.x; i < entries.buckets; i += blockDim.x) {
    float sum = 0;
    for (int j = 0; i < bias.num_buckets && j < kQueries; ++j) {
      sum += memory.buckets[i * kQueries + j];
    }
    table[1 + entries.positions + i] = sum;
  }
}

// Grid: as many threads as entries, heads. A table that the heads share gets the sum over them.
static __global__ void add_partial_tables(AttentionProblem problem, AttentionGradients gradients,
                                          const float* partial_tables, int num_partial_tables,
                                          TableEntries entries) {
  const int64_t entry = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (entry >= entries.count()) return;
  const int64_t bucket = entry - 1 - entries.positions;
  const Bias& bias = problem.bias;
  const int head = blockIdx.y;
  float* to = nullptr;
  bool shared_by_heads = false;
  if (entry == 0) {
    to = bias.slopes ? gradients.dslopes + head : nullptr;
  } else if (bucket < 0) {
    shared_by_heads = bias.position_table.head_stride == 0;
    to = gradients.dposition_table + head * entries.positions + entry - 1;
  } else {
    shared_by_heads = bias.time_table.head_stride == 0;
    to = gradients.dtime_table + head * entries.buckets + bucket;
  }
  if (!to || (shared_by_heads && head > 0)) return;
  const int last_head = shared_by_heads ? problem.num_heads - 1 : head;
  float sum = 0;
  for (int64_t i = 0; i < num_partial_tables; ++i) {
    for (int h = head; h <= last_head; ++h) {
      sum += partial_tables[(i * problem.num_heads + h) * entries.count() + entry];
    }
  }
  *to = sum;
}

}  // namespace torchrec_gr::cuda
