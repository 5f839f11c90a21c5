// What the arguments of indexed_products must be, on any device. Every error is a Python ValueError
// that reads "name: expected ..., got ...".
#pragma once

#include <ATen/core/Tensor.h>

namespace torchrec_gr {

// Shapes, dtypes and devices; not where the index points, for which a GPU would have to be waited
// for.
void check_indexed_products(const at::Tensor& left, const at::Tensor& rows,
                            const at::Tensor& index);

// The same, and of the gradient of the products.
void check_indexed_products(const at::Tensor& grad, const at::Tensor& left, const at::Tensor& rows,
                            const at::Tensor& index);

}  // namespace torchrec_gr
