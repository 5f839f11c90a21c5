// The CPU attention kernels, free of torch: what the ops call, and what a stand-alone harness
// calls.
#pragma once

#include <functional>

#include "../attention.h"

namespace torchrec_gr::cpu {

// A pool of `count` threads: run(body) calls body(thread) once for every thread in [0, count), side
// by side, and returns when all have returned.
struct Threads {
  int count;
  std::function<void(const std::function<void(int)>&)> run;
};

// Arguments are not checked. Everything that the output and the gradients point to is written,
// whatever was there; the result is the same bits for the same number of threads.
void hstu_attention(const AttentionProblem& problem, const AttentionOutput& output,
                    const Threads& threads);
void hstu_attention_backward(const AttentionProblem& problem, const AttentionGradients& gradients,
                             const Threads& threads);
void softmax_attention(const AttentionProblem& problem, const AttentionOutput& output,
                       const Threads& threads);
void softmax_attention_backward(const AttentionProblem& problem,
                                const AttentionGradients& gradients, const Threads& threads);

// The instructions in use: "default", "avx2", "avx512", "avx512_bf16" or "amx". The best that the
// machine has, or an earlier one that TORCHREC_GR_CPU_CAPABILITY names. Throws
// std::invalid_argument where it names none of them or one that the machine lacks.
const char* cpu_capability();

}  // namespace torchrec_gr::cpu
