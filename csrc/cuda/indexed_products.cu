// The kernels of indexed_products for a GPU, free of torch.
#include "indexed_products.cuh"
#include "launch.cuh"

namespace torchrec_gr::cuda {
namespace {

// Runs a kernel with a warp for each of `num` vectors or rows.
template <class Kernel, class... Arguments>
void launch_warps(Kernel kernel, int64_t num, cudaStream_t stream, const Arguments&... arguments) {
  if (num == 0) return;
  const auto num_blocks = static_cast<unsigned>((num + kProductWarps - 1) / kProductWarps);
  launch(kernel, dim3(num_blocks), kProductWarps * kWarpSize, 0, stream, arguments...);
}

}  // namespace

void indexed_products(const IndexedProducts& problem, float* products, cudaStream_t stream) {
  launch_warps(products_kernel, problem.num_left, stream, problem, products);
}

void indexed_products_backward(const IndexedProducts& problem,
                               const IndexedProductGradients& gradients, cudaStream_t stream) {
  launch_warps(left_gradients_kernel, problem.num_left, stream, problem, gradients.of_products,
               gradients.of_left);
  launch_warps(row_gradients_kernel, problem.num_rows, stream, problem, gradients);
}

}  // namespace torchrec_gr::cuda
