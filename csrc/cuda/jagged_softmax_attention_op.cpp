// The ops jagged_softmax_attention and jagged_softmax_attention_backward on CUDA.
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "../attention_arguments.h"
#include "../checks.h"
#include "attention_kernels.h"
#include "launch_arguments.h"

namespace torchrec_gr::cuda {
namespace {

constexpr double kScale = 1.0;  // softmax attention has none

std::tuple<at::Tensor, at::Tensor> forward(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& q_offsets,
    const at::Tensor& k_offsets, const at::Tensor& start, const at::Tensor& end,
    const OptionalTensor& own, const OptionalTensor& slopes, const OptionalTensor& position_table,
    const OptionalTensor& time_table, const OptionalTensor& q_positions,
    const OptionalTensor& k_positions, const OptionalTensor& q_times, const OptionalTensor& k_times,
    int64_t max_seq_len, double alpha) {
  const AttentionArguments arguments =
      checked({q, k, v, q_offsets, k_offsets, start, end, own, slopes, position_table, time_table,
               q_positions, k_positions, q_times, k_times, max_seq_len, alpha});
  const c10::cuda::CUDAGuard guard(arguments.q.device());
  const at::Tensor output = empty_output(arguments);
  const at::Tensor log_sum_exp = at::empty({q.size(0), q.size(1)}, q.options().dtype(at::kFloat));
  softmax_attention(attention_problem(arguments, kScale),
                    {rows(output), log_sum_exp.mutable_data_ptr<float>()},
                    current_launch(arguments));
  return {output, log_sum_exp};
}

GradientTuple backward(const at::Tensor& grad, const at::Tensor& output,
                       const at::Tensor& log_sum_exp, const at::Tensor& q, const at::Tensor& k,
                       const at::Tensor& v, const at::Tensor& q_offsets,
                       const at::Tensor& k_offsets, const at::Tensor& start, const at::Tensor& end,
                       const OptionalTensor& own, const OptionalTensor& slopes,
                       const OptionalTensor& position_table, const OptionalTensor& time_table,
                       const OptionalTensor& q_positions, const OptionalTensor& k_positions,
                       const OptionalTensor& q_times, const OptionalTensor& k_times,
                       int64_t max_seq_len, double alpha) {
  const AttentionArguments given{q,           k,           v,           q_offsets, k_offsets,
                                 start,       end,         own,         slopes,    position_table,
                                 time_table,  q_positions, k_positions, q_times,   k_times,
                                 max_seq_len, alpha};
  const AttentionArguments arguments = checked(given);
  const c10::cuda::CUDAGuard guard(arguments.q.device());
  const at::Tensor grad_output = checked_output("grad", grad, arguments);
  const at::Tensor forward_output = checked_output("output", output, arguments);
  const at::Tensor sums = checked_log_sum_exp(log_sum_exp, arguments);
  const GradientTensors gradients(arguments);
  AttentionGradients pointers = gradients.pointers();
  pointers.grad_output = rows(grad_output);
  pointers.output = rows(forward_output);
  pointers.log_sum_exp = sums.const_data_ptr<float>();
  const AttentionProblem problem = attention_problem(arguments, kScale);
  const Launch launch = current_launch(arguments);
  const at::Tensor workspace =
      empty_floats(softmax_attention_workspace(problem, launch), arguments);
  softmax_attention_backward(problem, pointers, workspace.mutable_data_ptr<float>(), launch);
  return gradients.like(given);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchrec_gr, CUDA, m) {
  m.impl("jagged_softmax_attention", forward);
  m.impl("jagged_softmax_attention_backward", backward);
}

}  // namespace torchrec_gr::cuda
