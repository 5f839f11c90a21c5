// The CUDA attention kernels, free of torch: what the ops call. Their logic is checked by running
// them on the host in emulation, and they compile for sm_80 and sm_90; they have not run on a GPU.
#pragma once

#include <cstdint>

#include "../attention.h"

using cudaStream_t = struct CUstream_st*;  // as the CUDA headers have it, which are not needed here

namespace torchrec_gr::cuda {

// What the host knows of a call beside the problem, whose pointers are all to device memory.
struct Launch {
  int64_t num_queries;  // Tq
  int64_t num_keys;     // Tk
  cudaStream_t stream;
};

// Shapes are not checked. Offsets, own keys and positions are, on the device: a wrong one ends the
// kernel with a message. Everything that the output and the gradients point to is written, the same
// bits in every run. A backward call works in as many floats of device memory as its _workspace()
// tells.
void hstu_attention(const AttentionProblem& problem, const AttentionOutput& output,
                    const Launch& to);
int64_t hstu_attention_workspace(const AttentionProblem& problem, const Launch& to);
void hstu_attention_backward(const AttentionProblem& problem, const AttentionGradients& gradients,
                             float* workspace, const Launch& to);
void softmax_attention(const AttentionProblem& problem, const AttentionOutput& output,
                       const Launch& to);
int64_t softmax_attention_workspace(const AttentionProblem& problem, const Launch& to);
void softmax_attention_backward(const AttentionProblem& problem,
                                const AttentionGradients& gradients, float* workspace,
                                const Launch& to);

}  // namespace torchrec_gr::cuda
