// Kernels with faults that the emulation has to find; tests/ops/test_cuda_emulation.py calls them.
#include <string>

namespace torchrec_gr::cuda {

void barrier_of_half_the_block(int) {
  if (threadIdx.x < 32) __syncthreads();
}

void instruction_of_half_a_warp(int) {
  if (threadIdx.x % 32 < 16) __syncwarp();
}

void two_instructions_in_one_warp(int) {
  if (threadIdx.x % 32 < 16) {
    __syncwarp();
  } else {
    __ballot_sync(0xffffffff, true);
  }
}

void store_past_shared_memory(int num_values) {
  extern __shared__ uint4 shared[];
  shared[num_values].x = threadIdx.x;
}

void copy_left_behind(int) {
  extern __shared__ uint4 shared[];
  static const uint4 from = {};
  for (int i = 0; i < 8; ++i) copy_async<16>(&shared[i], &from);
}

}  // namespace torchrec_gr::cuda

using namespace torchrec_gr::cuda;

// The message with which the emulation refuses the kernel, or null.
extern "C" const char* run_faulty(int kernel) {
  constexpr int kValues = 8;
  void (*const kernels[])(int) = {barrier_of_half_the_block, instruction_of_half_a_warp,
                                  two_instructions_in_one_warp, store_past_shared_memory,
                                  copy_left_behind};
  static std::string message;
  try {
    launch(kernels[kernel], dim3(1), 64, kValues * sizeof(uint4), nullptr, kValues);
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}
