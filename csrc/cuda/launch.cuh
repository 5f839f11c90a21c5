// Starts a kernel. The tests bring their own, which runs it on the host.
#pragma once

#ifdef __CUDACC__

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace torchrec_gr::cuda {

inline void check(cudaError_t status) {
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(status));
  }
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared_bytes,
            cudaStream_t stream, const Arguments&... arguments) {
  if (shared_bytes > 48 << 10) {  // on demand only
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)));
  }
  kernel<<<grid, threads, shared_bytes, stream>>>(arguments...);
  check(cudaGetLastError());
}

}  // namespace torchrec_gr::cuda

#endif
