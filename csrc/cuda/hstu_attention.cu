// The kernels of hstu_attention for a GPU, free of torch.
#include "attention_launch.cuh"
#include "hstu_attention.cuh"

namespace torchrec_gr::cuda {

void hstu_attention(const AttentionProblem& problem, const AttentionOutput& output,
                    const Launch& to) {
  launch_forward<Silu>(problem, output, to);
}

int64_t hstu_attention_workspace(const AttentionProblem& problem, const Launch& to) {
  return backward_workspace<Silu>(problem, to);
}

void hstu_attention_backward(const AttentionProblem& problem, const AttentionGradients& gradients,
                             float* workspace, const Launch& to) {
  launch_backward<Silu>(problem, gradients, workspace, to);
}

}  // namespace torchrec_gr::cuda
