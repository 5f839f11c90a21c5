// The ops hstu_attention and hstu_attention_backward on the CPU.
#include <torch/library.h>

#include "../attention_arguments.h"
#include "../checks.h"
#include "attention_kernels.h"
#include "attention_threads.h"

namespace torchrec_gr::cpu {
namespace {

at::Tensor forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                   const at::Tensor& q_offsets, const at::Tensor& k_offsets,
                   const at::Tensor& start, const at::Tensor& end, const OptionalTensor& own,
                   const OptionalTensor& slopes, const OptionalTensor& position_table,
                   const OptionalTensor& time_table, const OptionalTensor& q_positions,
                   const OptionalTensor& k_positions, const OptionalTensor& q_times,
                   const OptionalTensor& k_times, int64_t max_seq_len, double alpha, double scale) {
  const AttentionArguments arguments =
      checked({q, k, v, q_offsets, k_offsets, start, end, own, slopes, position_table, time_table,
               q_positions, k_positions, q_times, k_times, max_seq_len, alpha});
  const at::Tensor output = empty_output(arguments);
  hstu_attention(attention_problem(arguments, scale), {rows(output)}, attention_threads());
  return output;
}

GradientTuple backward(const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k,
                       const at::Tensor& v, const at::Tensor& q_offsets,
                       const at::Tensor& k_offsets, const at::Tensor& start, const at::Tensor& end,
                       const OptionalTensor& own, const OptionalTensor& slopes,
                       const OptionalTensor& position_table, const OptionalTensor& time_table,
                       const OptionalTensor& q_positions, const OptionalTensor& k_positions,
                       const OptionalTensor& q_times, const OptionalTensor& k_times,
                       int64_t max_seq_len, double alpha, double scale) {
  const AttentionArguments given{q,           k,           v,           q_offsets, k_offsets,
                                 start,       end,         own,         slopes,    position_table,
                                 time_table,  q_positions, k_positions, q_times,   k_times,
                                 max_seq_len, alpha};
  const AttentionArguments arguments = checked(given);
  const at::Tensor grad_output = checked_output("grad", grad, arguments);
  const GradientTensors gradients(arguments);
  AttentionGradients pointers = gradients.pointers();
  pointers.grad_output = rows(grad_output);
  hstu_attention_backward(attention_problem(arguments, scale), pointers, attention_threads());
  return gradients.like(given);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchrec_gr, CPU, m) {
  m.impl("hstu_attention", forward);
  m.impl("hstu_attention_backward", backward);
}

}  // namespace torchrec_gr::cpu
