#include "indexed_products_arguments.h"

namespace torchrec_gr {

void check_indexed_products(const at::Tensor& left, const at::Tensor& rows,
                            const at::Tensor& index) {
  TORCH_CHECK_VALUE(left.dim() == 2 && left.scalar_type() == at::kFloat,
                    "left: expected [P, D] float32, got ", left.sizes(), " ", left.scalar_type());
  TORCH_CHECK_VALUE(
      rows.dim() == 2 && rows.size(1) == left.size(1) && rows.scalar_type() == at::kFloat,
      "rows: expected [R, ", left.size(1), "] float32, got ", rows.sizes(), " ",
      rows.scalar_type());
  TORCH_CHECK_VALUE(
      index.dim() == 2 && index.size(0) == left.size(0) && index.scalar_type() == at::kLong,
      "index: expected [", left.size(0), ", N] int64, got ", index.sizes(), " ",
      index.scalar_type());
  TORCH_CHECK_VALUE(rows.device() == left.device(), "rows: expected the device of left, ",
                    left.device(), ", got ", rows.device());
  TORCH_CHECK_VALUE(index.device() == left.device(), "index: expected the device of left, ",
                    left.device(), ", got ", index.device());
}

void check_indexed_products(const at::Tensor& grad, const at::Tensor& left, const at::Tensor& rows,
                            const at::Tensor& index) {
  check_indexed_products(left, rows, index);
  TORCH_CHECK_VALUE(grad.sizes() == index.sizes() && grad.scalar_type() == at::kFloat &&
                        grad.device() == left.device(),
                    "grad: expected ", index.sizes(), " float32 on ", left.device(),
                    ", as index, got ", grad.sizes(), " ", grad.scalar_type(), " on ",
                    grad.device());
}

}  // namespace torchrec_gr
