// The arguments of an attention op as tensors, and as what a kernel is handed. For CPU and CUDA.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>

#include "attention.h"

namespace torchrec_gr {

using OptionalTensor = std::optional<at::Tensor>;

// What every attention op takes, in the order of the schemas.
struct AttentionArguments {
  at::Tensor q;
  at::Tensor k;
  at::Tensor v;
  at::Tensor q_offsets;
  at::Tensor k_offsets;
  at::Tensor start;
  at::Tensor end;
  OptionalTensor own;
  OptionalTensor slopes;
  OptionalTensor position_table;
  OptionalTensor time_table;
  OptionalTensor q_positions;
  OptionalTensor k_positions;
  OptionalTensor q_times;
  OptionalTensor k_times;
  int64_t max_seq_len;
  double alpha;
};

// The same arguments in the dtypes and layouts that attention.h names. Those that have them already
// are not copied. A position out of bounds stays out of bounds. Shapes and dtypes must be right.
AttentionArguments in_kernel_form(AttentionArguments arguments);

// Pointers into arguments in kernel form, which must outlive the problem.
AttentionProblem attention_problem(const AttentionArguments& arguments, double scale);

// q, k, v, or a tensor of their kind, whose vectors lie in one piece; a copy only where they don't.
at::Tensor with_whole_vectors(const at::Tensor& x);

// Pointers into a tensor [tokens, heads, width] of whole vectors.
Rows rows(const at::Tensor& x);

// [Tq, H, V], dtype of q; nothing is written yet.
at::Tensor empty_output(const AttentionArguments& arguments);

// Gradients of q, k, v, slopes, position_table, time_table.
using GradientTuple =
    std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// Where a backward kernel writes: the tables' gradients in float32, empty where there is no table.
class GradientTensors {
 public:
  explicit GradientTensors(const AttentionArguments& in_kernel_form);

  // With everything set that the kernel writes.
  AttentionGradients pointers() const;

  // What the op returns, the gradients of tables in the dtypes of the tables.
  GradientTuple like(const AttentionArguments& given) const;

 private:
  at::Tensor q_, k_, v_, slopes_, position_table_, time_table_;
};

}  // namespace torchrec_gr
