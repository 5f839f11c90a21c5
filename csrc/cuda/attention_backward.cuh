// The backward pass, in two kernels that write every gradient once: no atomic addition, the same
// bits in every run. One takes a tile of queries through the keys that they see, for dq; one takes
// a tile of keys through the queries that see them, for dk and dv. Both compute the weights again.
//
//     weight = activation(score)          grad_weight = grad_output . v
//     dv += weight * grad_output          grad_score from score and grad_weight
//     dq += alpha * grad_score * k        dk += alpha * grad_score * q
#pragma once

#include "attention_forward.cuh"

namespace torchrec_gr::cuda {

// The tile that stays, 16 lines a warp, and those that pass by. kColumns is as many columns of a
// gradient as a block sums up: dk and dv of 128 columns leave registers for half a tile of scores.
template <class T, int kColumns>
struct BackwardTiles {
  static constexpr int kWarps = sizeof(T) == 4 ? 2 : 4;
  static constexpr int kStaying = kFragment * kWarps;
  static constexpr int kPassing = sizeof(T) == 4 || kColumns > 64 ? 32 : 64;
};

template <class T, int kQueries, int kKeys>
struct BackwardMemory {
  Tile<T> q, grad_output, k, v;
  QueryFacts* queries;
  KeyFacts* keys;
  double* first_of_bucket;
  size_t bytes;

  TORCHREC_GR_HOST_DEVICE BackwardMemory(void* base, const AttentionProblem& problem) {
    SharedMemory memory(base);
    q = memory.take_tile<T>(kQueries, problem.qk_dim);
    grad_output = memory.take_tile<T>(kQueries, problem.v_dim);
    k = memory.take_tile<T>(kKeys, problem.qk_dim);
    v = memory.take_tile<T>(kKeys, problem.v_dim);
    queries = memory.take<QueryFacts>(kQueries);
    keys = memory.take<KeyFacts>(kKeys);
    first_of_bucket = memory.take<double>(problem.bias.time_table.data ? kMaxTimeBuckets : 0);
    bytes = memory.bytes();
  }

  __device__ void load_queries(const AttentionProblem& problem, const AttentionGradients& gradients,
                               const float* output_grad_output, int head, const Row& row,
                               int place) const {
    const int64_t first = row.first_query + place;
    const int count = row.num_queries - place;
    load_tile<kQueries>(q, lines_of<T>(problem.q, head, first, count, 0, problem.qk_dim));
    load_tile<kQueries>(grad_output,
                        lines_of<T>(gradients.grad_output, head, first, count, 0, problem.v_dim));
    for (int i = threadIdx.x; i < kQueries; i += blockDim.x) {
      queries[i] = query_facts(problem, row, place + i);
      if (output_grad_output && i < count) {
        const int64_t entry = (first + i) * problem.num_heads + head;
        queries[i].log_sum_exp = gradients.log_sum_exp[entry];
        queries[i].output_grad_output = output_grad_output[entry];
      }
    }
  }

  __device__ void load_keys(const AttentionProblem& problem, int head, const Row& row,
                            int place) const {
    const int64_t first = row.first_key + place;
    const int count = row.num_keys - place;
    load_tile<kKeys>(k, lines_of<T>(problem.k, head, first, count, 0, problem.qk_dim));
    load_tile<kKeys>(v, lines_of<T>(problem.v, head, first, count, 0, problem.v_dim));
    load_key_facts<kKeys>(keys, problem, row, place);
  }
};

// Weights and score gradients of one tile of queries and one of keys. Both come in as zeros and
// hold this warp's 16 lines: queries, or keys where kTransposed.
template <class Activation, bool kTransposed, class T, int kQueries, int kKeys, int kFragments>
__device__ __forceinline__ void weights_and_gradients(
    Accumulator (&weights)[kFragments], Accumulator (&grad_scores)[kFragments],
    const BackwardMemory<T, kQueries, kKeys>& memory, const AttentionProblem& problem,
    const HeadBias& bias, bool biased, int first_key) {
  const int first_line = kFragment * warp();
  if constexpr (kTransposed) {
    multiply_lines(weights, memory.k, first_line, memory.q, memory.q.num_columns);
    multiply_lines(grad_scores, memory.v, first_line, memory.grad_output, memory.v.num_columns);
  } else {
    multiply_lines(weights, memory.q, first_line, memory.k, memory.q.num_columns);
    multiply_lines(grad_scores, memory.grad_output, first_line, memory.v, memory.v.num_columns);
  }
#pragma unroll
  for (int f = 0; f < kFragments; ++f) {
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const int line = first_line + row_of(e);
      const int passing = kFragment * f + column_of(e);
      const int key = kTransposed ? line : passing;
      const QueryFacts& query = memory.queries[kTransposed ? passing : line];
      float& weight = weights[f].value(e);
      float& grad_score = grad_scores[f].value(e);
      const float score =
          score_of(weight, query, memory.keys[key], first_key + key, problem.alpha, bias, biased);
      if (score == kHidden) {
        weight = grad_score = 0;
      } else {
        Activation::template backward<T>(score, grad_score, problem.scale, query, weight,
                                         grad_score);
      }
    }
  }
}

// Grid: slots of queries, heads, parts of kColumns columns of dq.
template <class Activation, class T, int kColumns>
__global__ void __launch_bounds__(kWarpSize* BackwardTiles<T, kColumns>::kWarps)
    query_gradients(AttentionProblem problem, AttentionGradients gradients,
                    const float* output_grad_output, TimeBuckets buckets) {
  using Tiles = BackwardTiles<T, kColumns>;
  constexpr int kQueries = Tiles::kStaying, kKeys = Tiles::kPassing;
  extern __shared__ uint4 shared[];
  const BackwardMemory<T, kQueries, kKeys> memory(shared, problem);
  const int head = blockIdx.y, first_column = blockIdx.z * kColumns;
  const Slot slot = find_slot(problem, problem.q_offsets, kQueries, blockIdx.x);
  const Row& row = slot.row;
  const int num_queries = row.num_queries - slot.place;
  if (num_queries <= 0) return;

  memory.load_queries(problem, gradients, output_grad_output, head, row, slot.place);
  load_buckets(memory.first_of_bucket, problem, buckets);
  const HeadBias bias(problem, head, memory.first_of_bucket);
  const bool biased = bias.present();
  const Hull hull = hull_of<kQueries>(problem, row, slot.place);
  const bool busy = kFragment * warp() < num_queries;
  Accumulator dq[kColumns / kFragment];

  for (int place = hull.first_tile(kKeys); place < hull.end();
       place = hull.next_tile(place, kKeys)) {
    __syncthreads();  // all warps are done with the tile before
    memory.load_keys(problem, head, row, place);
    wait_for_copies();
    __syncthreads();
    if (busy) {
      Accumulator weights[kKeys / kFragment], grad_scores[kKeys / kFragment];
      weights_and_gradients<Activation, false>(weights, grad_scores, memory, problem, bias, biased,
                                               place);
      multiply(dq, grad_scores, memory.k, first_column);
    }
  }
  wait_for_copies();  // where no tile was met
  store_lines(lines_of<T>(gradients.dq, head, row.first_query + slot.place, num_queries,
                          first_column, problem.qk_dim),
              dq, problem.alpha);
}

// Grid: slots of keys, heads, parts of kColumns columns of dk and dv.
template <class Activation, class T, int kColumns>
__global__ void __launch_bounds__(kWarpSize* BackwardTiles<T, kColumns>::kWarps)
    key_gradients(AttentionProblem problem, AttentionGradients gradients,
                  const float* output_grad_output, TimeBuckets buckets) {
  using Tiles = BackwardTiles<T, kColumns>;
  constexpr int kQueries = Tiles::kPassing, kKeys = Tiles::kStaying;
  extern __shared__ uint4 shared[];
  const BackwardMemory<T, kQueries, kKeys> memory(shared, problem);
  const int head = blockIdx.y, first_column = blockIdx.z * kColumns;
  const Slot slot = find_slot(problem, problem.k_offsets, kKeys, blockIdx.x);
  const Row& row = slot.row;
  const int num_keys = row.num_keys - slot.place;
  if (num_keys <= 0) return;

  memory.load_keys(problem, head, row, slot.place);
  load_buckets(memory.first_of_bucket, problem, buckets);
  const HeadBias bias(problem, head, memory.first_of_bucket);
  const bool biased = bias.present();
  const bool busy = kFragment * warp() < num_keys;
  Accumulator dk[kColumns / kFragment], dv[kColumns / kFragment];

  for (int place = 0; place < row.num_queries; place += kQueries) {
    if (!hull_of<kQueries>(problem, row, place).meets(slot.place, slot.place + kKeys)) continue;
    __syncthreads();  // all warps are done with the tile before
    memory.load_queries(problem, gradients, output_grad_output, head, row, place);
    wait_for_copies();
    __syncthreads();
    if (busy) {
      Accumulator weights[kQueries / kFragment], grad_scores[kQueries / kFragment];
      weights_and_gradients<Activation, true>(weights, grad_scores, memory, problem, bias, biased,
                                              slot.place);
      multiply(dv, weights, memory.grad_output, first_column);
      multiply(dk, grad_scores, memory.q, first_column);
    }
  }
  wait_for_copies();  // where no tile was met
  const int64_t first_key = row.first_key + slot.place;
  store_lines(lines_of<T>(gradients.dk, head, first_key, num_keys, first_column, problem.qk_dim),
              dk, problem.alpha);
  store_lines(lines_of<T>(gradients.dv, head, first_key, num_keys, first_column, problem.v_dim), dv,
              1.0f);
}

// output . grad_output of every query and head, [Tq, H]: a warp each.
template <class T>
__global__ void output_times_gradient(AttentionProblem problem, AttentionGradients gradients,
                                      float* products, int64_t num_products) {
  const int64_t entry = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarpSize) + warp();
  if (entry >= num_products) return;
  const int64_t token = entry / problem.num_heads;
  const int head = static_cast<int>(entry % problem.num_heads);
  const Lines<T> output = lines_of<T>(gradients.output, head, token, 1, 0, problem.v_dim);
  const Lines<T> grad = lines_of<T>(gradients.grad_output, head, token, 1, 0, problem.v_dim);
  float sum = 0;
  for (int i = lane(); i < problem.v_dim; i += kWarpSize) {
    sum += as_float(output.data[i]) * as_float(grad.data[i]);
  }
  for (int apart = kWarpSize / 2; apart > 0; apart /= 2) {
    sum += __shfl_xor_sync(0xffffffff, sum, apart);
  }
  if (lane() == 0) products[entry] = sum;
}

}  // namespace torchrec_gr::cuda
