// A warp for each vector, or for each row. Lanes share its width; a sum over products is taken in
// the order of the batch.
#pragma once

#include <cstdint>

#include "fragments.cuh"
#include "indexed_products.h"
#include "instructions.cuh"

namespace torchrec_gr::cuda {

constexpr int kProductWarps = 8;  // of a block

// Which vector or row this warp has; there may be none left for the last ones.
__device__ inline int64_t number_of_warp() {
  return static_cast<int64_t>(blockIdx.x) * kProductWarps + warp();
}

// Where the row of a product begins.
__device__ inline const float* row_read_by(const IndexedProducts& problem, int64_t place) {
  const int64_t row = __ldg(problem.index + place);
  expect(row >= 0 && row < problem.num_rows, "index: expected places among the rows");
  return problem.rows + row * problem.dim;
}

__global__ void products_kernel(IndexedProducts problem, float* products) {
  const int64_t p = number_of_warp();
  if (p >= problem.num_left) return;
  const float* left = problem.left + p * problem.dim;
  for (int64_t n = 0; n < problem.num_products; ++n) {
    const int64_t place = p * problem.num_products + n;
    const float* row = row_read_by(problem, place);
    float sum = 0;
    for (int64_t d = lane(); d < problem.dim; d += kWarpSize)
      sum += __ldg(left + d) * __ldg(row + d);
    for (int apart = kWarpSize / 2; apart > 0; apart /= 2) {
      sum += __shfl_xor_sync(0xffffffff, sum, apart);
    }
    if (lane() == 0) products[place] = sum;
  }
}

__global__ void left_gradients_kernel(IndexedProducts problem, const float* grad, float* of_left) {
  const int64_t p = number_of_warp();
  if (p >= problem.num_left) return;
  const int64_t first = p * problem.num_products;
  for (int64_t d = lane(); d < problem.dim; d += kWarpSize) {
    float sum = 0;
    for (int64_t n = 0; n < problem.num_products; ++n) {
      sum += __ldg(grad + first + n) * __ldg(row_read_by(problem, first + n) + d);
    }
    of_left[p * problem.dim + d] = sum;
  }
}

__global__ void row_gradients_kernel(IndexedProducts problem, IndexedProductGradients gradients) {
  const int64_t row = number_of_warp();
  if (row >= problem.num_rows) return;
  const int64_t begin = __ldg(gradients.starts + row), end = __ldg(gradients.starts + row + 1);
  for (int64_t d = lane(); d < problem.dim; d += kWarpSize) {
    float sum = 0;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t place = __ldg(gradients.order + i);
      const float* left = problem.left + place / problem.num_products * problem.dim;
      sum += __ldg(gradients.of_products + place) * __ldg(left + d);
    }
    gradients.of_rows[row * problem.dim + d] = sum;
  }
}

}  // namespace torchrec_gr::cuda
