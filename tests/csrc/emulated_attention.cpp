// The CUDA attention kernels as a library for the host, which tests/ops/test_cuda_emulation.py
// calls. Build: g++ -shared -include cuda_emulation.h.
#include <string>

#include "cuda/hstu_attention.cu"
#include "cuda/jagged_softmax_attention.cu"

using namespace torchrec_gr;

namespace {

std::string message;

// The message of what went wrong, or null.
template <class Run>
const char* run(Run body) {
  try {
    body();
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

}  // namespace

extern "C" {

void set_schedule(int schedule, unsigned seed) {
  emulation::schedule = static_cast<emulation::Schedule>(schedule);
  emulation::draw.seed(seed);
}

int num_barriers() { return static_cast<int>(emulation::barriers.size()); }
const char* barrier_name(int barrier) { return emulation::barriers[barrier].c_str(); }
void leave_out_barrier(int barrier) { emulation::left_out = barrier; }

size_t size_of_problem() { return sizeof(AttentionProblem); }
size_t size_of_gradients() { return sizeof(AttentionGradients); }

const char* forward(bool softmax, const AttentionProblem* problem, const AttentionOutput* output,
                    int64_t num_queries, int64_t num_keys) {
  const cuda::Launch to{num_queries, num_keys, nullptr};
  return run(
      [&] { (softmax ? cuda::softmax_attention : cuda::hstu_attention)(*problem, *output, to); });
}

const char* backward(bool softmax, const AttentionProblem* problem,
                     const AttentionGradients* gradients, int64_t num_queries, int64_t num_keys) {
  const cuda::Launch to{num_queries, num_keys, nullptr};
  return run([&] {
    const auto size = softmax ? cuda::softmax_attention_workspace : cuda::hstu_attention_workspace;
    const auto attend = softmax ? cuda::softmax_attention_backward : cuda::hstu_attention_backward;
    std::vector<float> workspace(size(*problem, to), NAN);
    attend(*problem, *gradients, workspace.data(), to);
  });
}

}  // extern "C"
