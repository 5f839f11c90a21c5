// The warp instructions that CUDA C++ has no function for, and the check that stops a kernel. The
// tests run the kernels on the host with these written in software (tests/csrc/cuda_emulation.h).
#pragma once

#ifdef __CUDACC__

#include <cstdint>
#include <cstdio>

namespace torchrec_gr::cuda {

// Starts to copy 16 or 4 bytes, aligned to as many, from global to shared memory. There is no such
// instruction for 2.
template <int kBytes>
__device__ __forceinline__ void copy_async(void* to, const void* from) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
  } else if constexpr (kBytes == 4) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(address), "l"(from) : "memory");
  } else {
    static_assert(kBytes == 2);
    *static_cast<uint16_t*>(to) = __ldg(static_cast<const uint16_t*>(from));
  }
}

// Until all copies that this thread has started are done.
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

// Four 8 x 8 matrices of 16-bit values from shared memory: lane l passes the address of line l % 8
// of matrix l / 8, and gets of every matrix the values 2 * (l % 4), + 1 of line l / 4.
__device__ __forceinline__ void load_matrices(uint32_t (&matrices)[4], const void* line) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(line));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
               : "r"(address)
               : "memory");
}

// The same, every matrix transposed on the way.
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&matrices)[4],
                                                         const void* line) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(line));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
               : "r"(address)
               : "memory");
}

// c [16 x 8] += a [16 x 16] b [16 x 8], a and b pairs of bfloat16.
__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// c [16 x 8] += a [16 x 8] b [8 x 8], a and b tf32.
__device__ __forceinline__ void mma_tf32(float (&c)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ uint32_t round_to_tf32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}

__device__ __forceinline__ uint32_t round_to_bf16_pair(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

// Data that only the device can see without waiting for it: a wrong value ends the kernel, before
// it is used as an address, and the message stands in the process's output.
__device__ __forceinline__ void expect(bool holds, const char* message) {
  if (!holds) {
    printf("torchrec_gr: %s\n", message);
    __trap();
  }
}

}  // namespace torchrec_gr::cuda

#endif
