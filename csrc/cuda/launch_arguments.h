// What the CUDA ops hand to the kernels beside the problem.
#pragma once

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAStream.h>

#include "../attention_arguments.h"
#include "attention_kernels.h"

namespace torchrec_gr::cuda {

// On the stream that torch uses now on the device of q.
inline Launch current_launch(const AttentionArguments& arguments) {
  return {arguments.q.size(0), arguments.k.size(0),
          c10::cuda::getCurrentCUDAStream(arguments.q.device().index()).stream()};
}

inline at::Tensor empty_floats(int64_t count, const AttentionArguments& arguments) {
  return at::empty({count}, arguments.q.options().dtype(at::kFloat));
}

}  // namespace torchrec_gr::cuda
