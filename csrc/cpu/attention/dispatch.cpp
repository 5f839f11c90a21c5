// Which instruction set's kernels a call takes.
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "instruction_set.h"

namespace torchrec_gr::cpu {
namespace {

struct Choice {
  InstructionSet (*kernels)();
  bool machine_has_it;
};

// Whether the CPU has AMX with bfloat16, and the kernel of Linux lets this process use it: tiles
// are large, and must be asked for.
bool has_tiles() {
  unsigned int a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned int kBFloat16 = 1u << 22, kTiles = 1u << 24;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kBFloat16) == 0 || (d & kTiles) == 0) {
    return false;
  }
#ifdef __linux__
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

// From the plainest to the best.
std::vector<Choice> choices() {
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  const bool avx512_bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  const bool amx = avx512_bf16 && has_tiles();
  return {{default_kernels, true},
          {avx2_kernels, avx2},
          {avx512_kernels, avx512},
          {avx512_bf16_kernels, avx512_bf16},
          {amx_kernels, amx}};
}

InstructionSet choose() {
  const char* wish = std::getenv("TORCHREC_GR_CPU_CAPABILITY");
  InstructionSet best{};
  std::string names;
  for (const Choice& choice : choices()) {
    const InstructionSet kernels = choice.kernels();
    names += std::string(names.empty() ? "" : ", ") + kernels.name;
    if (wish != nullptr && kernels.name == std::string(wish)) {
      if (choice.machine_has_it) return kernels;
      throw std::invalid_argument("TORCHREC_GR_CPU_CAPABILITY: this CPU has no " +
                                  std::string(wish) + "; unset it to take the best that it has");
    }
    if (choice.machine_has_it) best = kernels;
  }
  if (wish != nullptr) {
    throw std::invalid_argument("TORCHREC_GR_CPU_CAPABILITY: expected one of " + names + ", got " +
                                wish);
  }
  return best;
}

const InstructionSet& chosen() {
  static const InstructionSet kernels = choose();
  return kernels;
}

}  // namespace

void hstu_attention(const AttentionProblem& problem, const AttentionOutput& output,
                    const Threads& threads) {
  chosen().hstu.forward(problem, output, threads);
}

void hstu_attention_backward(const AttentionProblem& problem, const AttentionGradients& gradients,
                             const Threads& threads) {
  chosen().hstu.backward(problem, gradients, threads);
}

void softmax_attention(const AttentionProblem& problem, const AttentionOutput& output,
                       const Threads& threads) {
  chosen().softmax.forward(problem, output, threads);
}

void softmax_attention_backward(const AttentionProblem& problem,
                                const AttentionGradients& gradients, const Threads& threads) {
  chosen().softmax.backward(problem, gradients, threads);
}

const char* cpu_capability() { return chosen().name; }

}  // namespace torchrec_gr::cpu
