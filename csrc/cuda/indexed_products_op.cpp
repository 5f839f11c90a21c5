// The ops indexed_products and indexed_products_backward on CUDA.
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/searchsorted.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <tuple>

#include "../indexed_products_arguments.h"
#include "indexed_products.h"

namespace torchrec_gr::cuda {
namespace {

// Of contiguous tensors.
IndexedProducts problem_of(const at::Tensor& left, const at::Tensor& rows,
                           const at::Tensor& index) {
  return {left.const_data_ptr<float>(),
          rows.const_data_ptr<float>(),
          index.const_data_ptr<int64_t>(),
          left.size(0),
          rows.size(0),
          index.size(1),
          left.size(1)};
}

cudaStream_t stream_of(const at::Tensor& x) {
  return c10::cuda::getCurrentCUDAStream(x.device().index()).stream();
}

at::Tensor forward(const at::Tensor& left, const at::Tensor& rows, const at::Tensor& index) {
  check_indexed_products(left, rows, index);
  const c10::cuda::CUDAGuard guard(left.device());
  const at::Tensor vectors = left.contiguous(), table = rows.contiguous(),
                   places = index.contiguous();
  const at::Tensor products = at::empty(index.sizes(), left.options());
  indexed_products(problem_of(vectors, table, places), products.mutable_data_ptr<float>(),
                   stream_of(left));
  return products;
}

std::tuple<at::Tensor, at::Tensor> backward(const at::Tensor& grad, const at::Tensor& left,
                                            const at::Tensor& rows, const at::Tensor& index) {
  check_indexed_products(grad, left, rows, index);
  const c10::cuda::CUDAGuard guard(left.device());
  const at::Tensor vectors = left.contiguous(), table = rows.contiguous(),
                   places = index.contiguous(), of_products = grad.contiguous();
  const auto [sorted, order] = places.flatten().sort(/*stable=*/true, /*dim=*/0);
  const at::Tensor starts =
      at::searchsorted(sorted, at::arange(rows.size(0) + 1, places.options()));
  const at::Tensor of_left = at::empty(left.sizes(), left.options()),
                   of_rows = at::empty(rows.sizes(), rows.options());
  indexed_products_backward(problem_of(vectors, table, places),
                            {of_products.const_data_ptr<float>(), order.const_data_ptr<int64_t>(),
                             starts.const_data_ptr<int64_t>(), of_left.mutable_data_ptr<float>(),
                             of_rows.mutable_data_ptr<float>()},
                            stream_of(left));
  return {of_left, of_rows};
}

}  // namespace

TORCH_LIBRARY_IMPL(torchrec_gr, CUDA, m) {
  m.impl("indexed_products", forward);
  m.impl("indexed_products_backward", backward);
}

}  // namespace torchrec_gr::cuda
