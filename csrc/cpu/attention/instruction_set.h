// The attention kernels as one instruction set has them.
#pragma once

#include "../attention_kernels.h"

namespace torchrec_gr::cpu {

struct ActivationKernels {
  void (*forward)(const AttentionProblem&, const AttentionOutput&, const Threads&);
  void (*backward)(const AttentionProblem&, const AttentionGradients&, const Threads&);
};

struct InstructionSet {
  const char* name;
  ActivationKernels hstu;
  ActivationKernels softmax;
};

// Each is compiled in a file of its own, and only to be called where the machine has it.
InstructionSet default_kernels();
InstructionSet avx2_kernels();
InstructionSet avx512_kernels();
InstructionSet avx512_bf16_kernels();
InstructionSet amx_kernels();

}  // namespace torchrec_gr::cpu
