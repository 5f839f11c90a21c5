#include "attention_arguments.h"

#include <ATen/ops/clamp.h>
#include <ATen/ops/empty.h>

#include <algorithm>

namespace torchrec_gr {
namespace {

at::Tensor contiguous_as(const at::Tensor& x, at::ScalarType dtype) {
  return x.to(dtype).contiguous();
}

OptionalTensor contiguous_as(const OptionalTensor& x, at::ScalarType dtype) {
  return x ? OptionalTensor(contiguous_as(*x, dtype)) : x;
}

// An int64 too large for an int32 becomes one that is out of bounds too, never another position.
OptionalTensor positions_as_int32(const OptionalTensor& x) {
  if (x && x->scalar_type() == at::kLong) {
    return contiguous_as(at::clamp(*x, -kPositionBound - 1, kPositionBound), at::kInt);
  }
  return contiguous_as(x, at::kInt);
}

template <typename T>
const T* data_or_null(const OptionalTensor& x) {
  return x ? x->const_data_ptr<T>() : nullptr;
}

BiasTable bias_table(const OptionalTensor& x) {
  if (!x) return {};
  return {x->const_data_ptr<float>(), x->size(0) == 1 ? 0 : x->size(1), x->size(1)};
}

at::Tensor empty_like_contiguous(const at::Tensor& x) { return at::empty(x.sizes(), x.options()); }

at::Tensor empty_gradient(const OptionalTensor& table, const at::Tensor& q) {
  return table ? empty_like_contiguous(*table) : at::empty({0}, q.options().dtype(at::kFloat));
}

float* floats_or_null(const at::Tensor& gradient) {
  return gradient.numel() == 0 ? nullptr : gradient.mutable_data_ptr<float>();
}

at::Tensor in_dtype_of(const OptionalTensor& table, const at::Tensor& gradient) {
  return table ? gradient.to(table->scalar_type()) : gradient;
}

}  // namespace

AttentionArguments in_kernel_form(AttentionArguments arguments) {
  arguments.q = with_whole_vectors(arguments.q);
  arguments.k = with_whole_vectors(arguments.k);
  arguments.v = with_whole_vectors(arguments.v);
  arguments.q_offsets = contiguous_as(arguments.q_offsets, at::kLong);
  arguments.k_offsets = contiguous_as(arguments.k_offsets, at::kLong);
  arguments.start = arguments.start.contiguous();
  arguments.end = arguments.end.contiguous();
  arguments.own = contiguous_as(arguments.own, at::kInt);
  arguments.slopes = contiguous_as(arguments.slopes, at::kFloat);
  arguments.position_table = contiguous_as(arguments.position_table, at::kFloat);
  arguments.time_table = contiguous_as(arguments.time_table, at::kFloat);
  arguments.q_positions = positions_as_int32(arguments.q_positions);
  arguments.k_positions = positions_as_int32(arguments.k_positions);
  arguments.q_times = contiguous_as(arguments.q_times, at::kLong);
  arguments.k_times = contiguous_as(arguments.k_times, at::kLong);
  return arguments;
}

AttentionProblem attention_problem(const AttentionArguments& arguments, double scale) {
  AttentionProblem problem;
  problem.type =
      arguments.q.scalar_type() == at::kFloat ? ElementType::kFloat32 : ElementType::kBFloat16;
  problem.num_rows = arguments.q_offsets.numel() - 1;
  problem.num_heads = static_cast<int>(arguments.q.size(1));
  problem.qk_dim = static_cast<int>(arguments.q.size(2));
  problem.v_dim = static_cast<int>(arguments.v.size(2));
  problem.max_seq_len = arguments.max_seq_len;
  problem.q_offsets = arguments.q_offsets.const_data_ptr<int64_t>();
  problem.k_offsets = arguments.k_offsets.const_data_ptr<int64_t>();
  problem.start = arguments.start.const_data_ptr<int32_t>();
  problem.end = arguments.end.const_data_ptr<int32_t>();
  problem.own = data_or_null<int32_t>(arguments.own);
  problem.q = rows(arguments.q);
  problem.k = rows(arguments.k);
  problem.v = rows(arguments.v);
  problem.bias.slopes = data_or_null<float>(arguments.slopes);
  problem.bias.position_table = bias_table(arguments.position_table);
  problem.bias.time_table = bias_table(arguments.time_table);
  problem.bias.q_positions = data_or_null<int32_t>(arguments.q_positions);
  problem.bias.k_positions = data_or_null<int32_t>(arguments.k_positions);
  problem.bias.q_times = data_or_null<int64_t>(arguments.q_times);
  problem.bias.k_times = data_or_null<int64_t>(arguments.k_times);
  problem.alpha = static_cast<float>(arguments.alpha);
  problem.scale = static_cast<float>(scale);
  return problem;
}

at::Tensor with_whole_vectors(const at::Tensor& x) {
  const bool whole = x.stride(2) == 1 || x.size(2) == 1;
  return whole && x.stride(0) >= x.size(2) ? x : x.contiguous();
}

Rows rows(const at::Tensor& x) {
  // The stride of an only token may be anything; kernels take it for at least a vector's width.
  return {x.data_ptr(), std::max(x.stride(0), x.size(2)), x.stride(1)};
}

at::Tensor empty_output(const AttentionArguments& arguments) {
  return at::empty({arguments.q.size(0), arguments.q.size(1), arguments.v.size(2)},
                   arguments.q.options());
}

GradientTensors::GradientTensors(const AttentionArguments& in_kernel_form)
    : q_(empty_like_contiguous(in_kernel_form.q)),
      k_(empty_like_contiguous(in_kernel_form.k)),
      v_(empty_like_contiguous(in_kernel_form.v)),
      slopes_(empty_gradient(in_kernel_form.slopes, q_)),
      position_table_(empty_gradient(in_kernel_form.position_table, q_)),
      time_table_(empty_gradient(in_kernel_form.time_table, q_)) {}

AttentionGradients GradientTensors::pointers() const {
  AttentionGradients gradients{};
  gradients.dq = rows(q_);
  gradients.dk = rows(k_);
  gradients.dv = rows(v_);
  gradients.dslopes = floats_or_null(slopes_);
  gradients.dposition_table = floats_or_null(position_table_);
  gradients.dtime_table = floats_or_null(time_table_);
  return gradients;
}

GradientTuple GradientTensors::like(const AttentionArguments& given) const {
  return {q_,
          k_,
          v_,
          in_dtype_of(given.slopes, slopes_),
          in_dtype_of(given.position_table, position_table_),
          in_dtype_of(given.time_table, time_table_)};
}

}  // namespace torchrec_gr
