// The kernels of jagged_softmax_attention for a GPU, free of torch.
#include "attention_launch.cuh"
#include "jagged_softmax_attention.cuh"

namespace torchrec_gr::cuda {

void softmax_attention(const AttentionProblem& problem, const AttentionOutput& output,
                       const Launch& to) {
  launch_forward<Softmax>(problem, output, to);
}

int64_t softmax_attention_workspace(const AttentionProblem& problem, const Launch& to) {
  return backward_workspace<Softmax>(problem, to);
}

void softmax_attention_backward(const AttentionProblem& problem,
                                const AttentionGradients& gradients, float* workspace,
                                const Launch& to) {
  launch_backward<Softmax>(problem, gradients, workspace, to);
}

}  // namespace torchrec_gr::cuda
