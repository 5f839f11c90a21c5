// Starts the kernels of an attention op: picks them by type and width, and sizes their grids.
#pragma once

#include <algorithm>
#include <type_traits>

#include "attention_backward.cuh"
#include "attention_forward.cuh"
#include "attention_kernels.h"
#include "bias_gradients.cuh"
#include "launch.cuh"

namespace torchrec_gr::cuda {

// Ends the kernel where offsets do not rise from 0 to the number of tokens. Grid: as many threads
// as rows, q and k.
static __global__ void check_offsets(AttentionProblem problem, int64_t num_queries,
                                     int64_t num_keys) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t num_rows = problem.num_rows;
  if (row >= num_rows) return;
  const int64_t* offsets = blockIdx.y == 0 ? problem.q_offsets : problem.k_offsets;
  const int64_t num_tokens = blockIdx.y == 0 ? num_queries : num_keys;
  expect(row > 0 || offsets[0] == 0, "q_offsets, k_offsets: expected to start at 0");
  expect(row < num_rows - 1 || offsets[num_rows] == num_tokens,
         "q_offsets, k_offsets: expected to end at the number of tokens");
  expect(offsets[row] <= offsets[row + 1], "q_offsets, k_offsets: expected to rise");
}

inline unsigned num_blocks(int64_t items, int items_a_block) {
  return static_cast<unsigned>((items + items_a_block - 1) / items_a_block);
}

inline void launch_checks(const AttentionProblem& problem, const Launch& to) {
  constexpr int kThreads = 256;
  launch(check_offsets, dim3(num_blocks(problem.num_rows, kThreads), 2), kThreads, 0, to.stream,
         problem, to.num_queries, to.num_keys);
}

inline const TimeBuckets& time_buckets() {
  static const TimeBuckets buckets;
  return buckets;
}

// Calls run(T(), std::integral_constant<int, columns>()): so many columns of a result a block sums
// up. A wider one is made in parts, for each of which the scores are computed again.
template <class Run>
void with_type_and_columns(ElementType type, int width, Run run) {
  const auto with_columns = [&](auto element) {
    if (width <= 64) {
      run(element, std::integral_constant<int, 64>());
    } else {
      run(element, std::integral_constant<int, 128>());
    }
  };
  if (type == ElementType::kFloat32) {
    with_columns(float());
  } else {
    with_columns(BFloat16());
  }
}

inline dim3 grid_of(const AttentionProblem& problem, int64_t slots, int width, int columns) {
  return dim3(static_cast<unsigned>(slots), problem.num_heads, num_blocks(width, columns));
}

template <class Activation>
void launch_forward(const AttentionProblem& problem, const AttentionOutput& output,
                    const Launch& to) {
  launch_checks(problem, to);
  with_type_and_columns(problem.type, problem.v_dim, [&](auto element, auto columns) {
    using T = decltype(element);
    using Tiles = ForwardTiles<T>;
    const int64_t slots = num_slots(to.num_queries, problem.num_rows, Tiles::kQueries);
    launch(attention_forward<Activation, T, columns>,
           grid_of(problem, slots, problem.v_dim, columns), kWarpSize * Tiles::kWarps,
           ForwardMemory<T>(nullptr, problem, columns).bytes, to.stream, problem, output,
           time_buckets());
  });
}

inline bool has_bias(const AttentionProblem& problem) {
  return problem.bias.uses_positions() || problem.bias.time_table.data;
}

inline int num_partial_tables(const AttentionProblem& problem, const Launch& to) {
  constexpr int64_t kMost = 64;
  return static_cast<int>(
      std::min(num_slots(to.num_queries, problem.num_rows, BiasTiles::kQueries), kMost));
}

template <class Activation>
void launch_bias_gradients(const AttentionProblem& problem, const AttentionGradients& gradients,
                           const float* output_grad_output, float* partial_tables,
                           const Launch& to) {
  constexpr int64_t kMostSharedPositions = 8192;  // max_seq_len 4096
  constexpr size_t kSharedBytes = 160 << 10;      // of a block, at most, on sm_80
  const TableEntries entries(problem.bias);
  const int64_t slots = num_slots(to.num_queries, problem.num_rows, BiasTiles::kQueries);
  const dim3 grid(num_partial_tables(problem, to), problem.num_heads);
  with_type_and_columns(problem.type, 0, [&](auto element, auto) {
    using T = decltype(element);
    const auto bytes = [&](bool room) {
      return BiasMemory<T>(nullptr, problem, entries.positions, room).bytes;
    };
    const bool room = entries.positions <= kMostSharedPositions && bytes(true) <= kSharedBytes;
    launch(bias_gradients<Activation, T>, grid, kWarpSize * BiasTiles::kWarps, bytes(room),
           to.stream, problem, gradients, output_grad_output, time_buckets(), partial_tables,
           entries, slots, room);
  });
  constexpr int kThreads = 128;
  launch(add_partial_tables, dim3(num_blocks(entries.count(), kThreads), problem.num_heads),
         kThreads, 0, to.stream, problem, gradients, partial_tables, static_cast<int>(grid.x),
         entries);
}

// How many floats of workspace launch_backward() needs.
template <class Activation>
int64_t backward_workspace(const AttentionProblem& problem, const Launch& to) {
  const int64_t products = Activation::kNormalised ? to.num_queries * problem.num_heads : 0;
  const int64_t tables = has_bias(problem) ? num_partial_tables(problem, to) : 0;
  return products + tables * problem.num_heads * TableEntries(problem.bias).count();
}

// The workspace holds output . grad_output [Tq, H] where that is needed, then the partial tables.
template <class Activation>
void launch_backward(const AttentionProblem& problem, const AttentionGradients& gradients,
                     float* workspace, const Launch& to) {
  launch_checks(problem, to);
  const int64_t num_products = Activation::kNormalised ? to.num_queries * problem.num_heads : 0;
  float* products = Activation::kNormalised ? workspace : nullptr;
  const int width = std::max(problem.qk_dim, problem.v_dim);
  with_type_and_columns(problem.type, width, [&](auto element, auto columns) {
    using T = decltype(element);
    using Tiles = BackwardTiles<T, columns>;
    constexpr int kThreads = kWarpSize * Tiles::kWarps;
    constexpr int kStaying = Tiles::kStaying, kPassing = Tiles::kPassing;
    if (num_products > 0) {
      launch(output_times_gradient<T>, dim3(num_blocks(num_products, Tiles::kWarps)), kThreads, 0,
             to.stream, problem, gradients, products, num_products);
    }
    launch(query_gradients<Activation, T, columns>,
           grid_of(problem, num_slots(to.num_queries, problem.num_rows, kStaying), problem.qk_dim,
                   columns),
           kThreads, BackwardMemory<T, kStaying, kPassing>(nullptr, problem).bytes, to.stream,
           problem, gradients, products, time_buckets());
    launch(key_gradients<Activation, T, columns>,
           grid_of(problem, num_slots(to.num_keys, problem.num_rows, kStaying), width, columns),
           kThreads, BackwardMemory<T, kPassing, kStaying>(nullptr, problem).bytes, to.stream,
           problem, gradients, products, time_buckets());
  });
  if (has_bias(problem)) {
    launch_bias_gradients<Activation>(problem, gradients, products, workspace + num_products, to);
  }
}

}  // namespace torchrec_gr::cuda
