// What an attention kernel is handed: plain pointers and sizes, the same on CPU and CUDA. Knows
// nothing of torch, so that the kernels compile alone, for an instruction set or for a test.
#pragma once

#include <cstdint>

#include "spans.h"

namespace torchrec_gr {

// Positions lie in [-kPositionBound, kPositionBound), so that an int32 holds their differences.
constexpr int64_t kPositionBound = int64_t{1} << 30;

enum class ElementType { kFloat32, kBFloat16 };

// A tensor [tokens, heads, width] whose last axis is contiguous; strides count elements.
struct Rows {
  void* data;
  int64_t token_stride;
  int64_t head_stride;
};

// A table [heads or 1, width] of floats: a head_stride of 0 shares one line among the heads.
struct BiasTable {
  const float* data = nullptr;  // null: there is no such term
  int64_t head_stride = 0;
  int64_t width = 0;
};

// Terms added to the score of query and key. A null table is absent; null positions are places in
// the row (a key's own, a query's that of its own key); null q_times are those of the own keys.
struct Bias {
  const float* slopes = nullptr;  // [H]: -slope * |p_q - p_k|
  BiasTable position_table;  // [H or 1, 2 * max_seq_len - 1]: entry p_k - p_q + max_seq_len - 1
  BiasTable time_table;      // [H or 1, buckets]: entry time_bucket(t_q - t_k)
  const int32_t* q_positions = nullptr;  // [Tq]
  const int32_t* k_positions = nullptr;  // [Tk]
  const int64_t* q_times = nullptr;      // [Tq]
  const int64_t* k_times = nullptr;      // [Tk]

  TORCHREC_GR_HOST_DEVICE bool uses_positions() const {
    return slopes != nullptr || position_table.data != nullptr;
  }
};

// One call. Row b holds queries q_offsets[b]:q_offsets[b + 1] and keys
// k_offsets[b]:k_offsets[b + 1]. A null `own`: the queries are the row's trailing keys.
struct AttentionProblem {
  ElementType type;
  int64_t num_rows;
  int num_heads;
  int qk_dim;
  int v_dim;
  int64_t max_seq_len;
  const int64_t* q_offsets;  // [B + 1]
  const int64_t* k_offsets;  // [B + 1]
  const int32_t* start;      // [Tq]
  const int32_t* end;        // [Tq]
  const int32_t* own;        // [Tq] or null
  Rows q;                    // [Tq, H, A]
  Rows k;                    // [Tk, H, A]
  Rows v;                    // [Tk, H, V]
  Bias bias;
  float alpha;  // of q.k
  float scale;  // of the result; HSTU alone, 1 in softmax attention
};

struct AttentionOutput {
  Rows output;                   // [Tq, H, V]
  float* log_sum_exp = nullptr;  // [Tq, H]; softmax alone, else null
};

// What a backward call reads beside the problem, and what it fills.
struct AttentionGradients {
  Rows grad_output;                    // [Tq, H, V]
  Rows output;                         // [Tq, H, V]; softmax alone
  const float* log_sum_exp = nullptr;  // [Tq, H]; softmax alone
  Rows dq;                             // [Tq, H, A]
  Rows dk;                             // [Tk, H, A]
  Rows dv;                             // [Tk, H, V]
  float* dslopes = nullptr;            // [H]; null where the term is absent
  float* dposition_table = nullptr;    // [H or 1, 2 * max_seq_len - 1]
  float* dtime_table = nullptr;        // [H or 1, buckets]
};

}  // namespace torchrec_gr
