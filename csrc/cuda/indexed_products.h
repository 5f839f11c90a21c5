// The CUDA kernels of indexed_products, free of torch: what the op calls. Their logic is checked by
// running them on the host in emulation, and they compile for sm_80 and sm_90; they have not run on
// a GPU.
#pragma once

#include <cstdint>

using cudaStream_t = struct CUstream_st*;  // as the CUDA headers have it, which are not needed here

namespace torchrec_gr::cuda {

// All pointers are to device memory.
struct IndexedProducts {
  const float* left;     // [P, D]
  const float* rows;     // [R, D]
  const int64_t* index;  // [P, N]
  int64_t num_left;
  int64_t num_rows;
  int64_t num_products;  // N
  int64_t dim;
};

struct IndexedProductGradients {
  const float* of_products;  // [P, N], read
  const int64_t* order;      // [P * N] the places of index, by row, those of a row in order
  const int64_t* starts;     // [R + 1] where each row's begin in it
  float* of_left;            // [P, D]
  float* of_rows;            // [R, D]
};

// Shapes are not checked. The index is, on the device: a wrong one ends the kernel with a message.
// All of the output and the gradients is written, the same bits in every run.
void indexed_products(const IndexedProducts& problem, float* products, cudaStream_t stream);
void indexed_products_backward(const IndexedProducts& problem,
                               const IndexedProductGradients& gradients, cudaStream_t stream);

}  // namespace torchrec_gr::cuda
