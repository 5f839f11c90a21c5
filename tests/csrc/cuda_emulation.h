// Runs CUDA kernels on the host: included before the kernels' headers (g++ -include), it stands in
// for nvcc. Every CUDA thread is a fiber with a stack of its own, which runs until it has to wait
// for its warp or for its block. So a kernel's logic can be held against a reference, under
// schedules that a GPU would rarely show:
//
//     kInOrder   warps take turns, lanes in order
//     kReversed  the same backwards
//     kShuffled  the warp whose turn it is, and the order of its lanes, are drawn
//     kRunAhead  a drawn warp runs on until every lane waits for the block: others fall far behind
//
// Found on the way: threads that wait in different places (a barrier not reached by all), lanes
// that call different warp instructions, stores past the shared memory that was asked for, copies
// that are not waited for. Shared memory starts as NaN, so that values never written show. A
// barrier can be left out by its number, to see that a test would notice.
//
// Not covered: stores that other threads see late or in another order, the accuracy of fast
// functions such as __expf, registers, speed.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

using cudaStream_t = struct CUstream_st*;

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace torchrec_gr::cuda {

constexpr size_t kMaxSharedBytes = 163 << 10;  // a block's on sm_80
constexpr size_t kGuardBytes = 1 << 10;

// The name under which the kernels declare their dynamic shared memory.
inline uint4 shared[(kMaxSharedBytes + kGuardBytes) / sizeof(uint4)];

}  // namespace torchrec_gr::cuda

namespace emulation {

constexpr int kLanes = 32;
constexpr size_t kStackBytes = 64 << 10;

enum class Schedule { kInOrder, kReversed, kShuffled, kRunAhead };
enum class State { kReady, kAtWarp, kAtBlock, kFinished };

inline Schedule schedule = Schedule::kInOrder;
inline std::mt19937 draw;

// The barriers of a block and the waits for copies that have been met, in the order in which they
// were; and which one of them is left out, if any.
inline std::vector<std::string> barriers;
inline int left_out = -1;

// What a lane brings to a warp instruction, and what it takes away.
struct Operands {
  uint32_t a[4], b[2];
  float c[4];
  const void* address;
};

struct Warp {
  // Two rounds: a lane may bring the operands of the next instruction while others still have to
  // fetch the results of this one.
  Operands rounds[2][kLanes];
  int round_of[kLanes] = {};
  const char* instruction_of[kLanes] = {};
  int arrived = 0;
};

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};

struct Thread {
  ucontext_t start;
  jmp_buf position;
  bool started = false;
  State state = State::kReady;
  int barrier = -1;          // where it waits for the block
  std::vector<Copy> copies;  // begun, not yet done
  std::vector<char> stack = std::vector<char>(kStackBytes);
};

inline std::vector<Thread> threads;
inline std::vector<Warp> warps;
inline std::function<void()> kernel_body;
inline std::exception_ptr failure;
inline jmp_buf scheduler;

inline Thread& this_thread() { return threads[threadIdx.x]; }
inline Warp& this_warp() { return warps[threadIdx.x / kLanes]; }
inline int this_lane() { return threadIdx.x % kLanes; }

inline void finish_copies(Thread& thread) {
  for (const Copy& copy : thread.copies) std::memcpy(copy.to, copy.from, copy.bytes);
  thread.copies.clear();
}

// Hands over to the scheduler, which comes back once the thread is ready again.
[[gnu::noinline]] inline void wait(State state) {
  Thread& thread = this_thread();
  thread.state = state;
  if (_setjmp(thread.position) == 0) _longjmp(scheduler, 1);
}

inline void run_kernel_body() {
  try {
    kernel_body();
    if (!this_thread().copies.empty()) throw std::runtime_error("copies never waited for");
  } catch (...) {
    failure = std::current_exception();
  }
  this_thread().state = State::kFinished;
  _longjmp(scheduler, 1);
}

[[gnu::noinline]] inline void resume(int index) {
  Thread& thread = threads[index];
  threadIdx.x = index;
  if (_setjmp(scheduler) != 0) return;
  if (thread.started) _longjmp(thread.position, 1);
  thread.started = true;
  setcontext(&thread.start);
}

inline void prepare(Thread& thread) {
  thread.started = false;
  thread.state = State::kReady;
  thread.copies.clear();
  getcontext(&thread.start);
  thread.start.uc_stack.ss_sp = thread.stack.data();
  thread.start.uc_stack.ss_size = thread.stack.size();
  thread.start.uc_link = nullptr;
  makecontext(&thread.start, run_kernel_body, 0);
}

inline bool is_ready(int warp) {
  return std::any_of(&threads[warp * kLanes], &threads[warp * kLanes] + kLanes,
                     [](const Thread& thread) { return thread.state == State::kReady; });
}

// Runs the lanes of a warp that are ready until each waits, then lets the warp pass if all its
// lanes wait for it.
inline void step(int warp) {
  std::vector<int> order(kLanes);
  for (int i = 0; i < kLanes; ++i) {
    order[i] = warp * kLanes + (schedule == Schedule::kReversed ? kLanes - 1 - i : i);
  }
  if (schedule >= Schedule::kShuffled) std::shuffle(order.begin(), order.end(), draw);
  for (int index : order) {
    if (threads[index].state == State::kReady && !failure) resume(index);
  }
  const auto at_warp = std::count_if(
      order.begin(), order.end(), [](int index) { return threads[index].state == State::kAtWarp; });
  if (failure || at_warp == 0) return;
  if (at_warp < kLanes) throw std::runtime_error("a warp instruction not reached by all lanes");
  for (int index : order) threads[index].state = State::kReady;
}

// The warps that are ready, in the order in which they are to take their turns.
inline std::vector<int> turns() {
  std::vector<int> order;
  for (int warp = 0; warp < static_cast<int>(warps.size()); ++warp) {
    if (is_ready(warp)) order.push_back(warp);
  }
  if (schedule == Schedule::kReversed) std::reverse(order.begin(), order.end());
  if (schedule >= Schedule::kShuffled) std::shuffle(order.begin(), order.end(), draw);
  if (schedule == Schedule::kRunAhead && !order.empty()) order.resize(1);
  return order;
}

// Every thread has finished (false) or waits for the block, at one and the same barrier (true).
inline bool all_at_barrier() {
  const Thread& first = threads[0];
  for (const Thread& thread : threads) {
    if (thread.state != first.state || thread.barrier != first.barrier) {
      throw std::runtime_error("a barrier not reached by all threads: " +
                               barriers[std::max(thread.barrier, first.barrier)]);
    }
  }
  return first.state == State::kAtBlock;
}

inline void run_block() {
  for (Thread& thread : threads) prepare(thread);
  warps.assign(warps.size(), Warp());
  do {
    for (Thread& thread : threads) {
      thread.state = State::kReady;
      thread.barrier = -1;
    }
    for (std::vector<int> order = turns(); !order.empty(); order = turns()) {
      for (int warp : order) {
        do {
          step(warp);
          if (failure) std::rethrow_exception(failure);
        } while (schedule == Schedule::kRunAhead && is_ready(warp));
      }
    }
  } while (all_at_barrier());
}

inline void run_guarded_block(size_t shared_bytes) {
  char* memory = reinterpret_cast<char*>(torchrec_gr::cuda::shared);
  const std::vector<char> guard(torchrec_gr::cuda::kGuardBytes, 0x5a);
  std::memset(memory, 0xff, shared_bytes);  // NaN
  std::memcpy(memory + shared_bytes, guard.data(), guard.size());
  run_block();
  if (std::memcmp(memory + shared_bytes, guard.data(), guard.size()) != 0) {
    throw std::runtime_error("a store past the end of shared memory");
  }
}

// Of the place in the source from which a barrier, or a wait for copies, was called.
inline int number_of_barrier(const char* file, int line) {
  const std::string path(file);
  const std::string name = path.substr(path.rfind('/') + 1) + ":" + std::to_string(line);
  const auto found = std::find(barriers.begin(), barriers.end(), name);
  if (found != barriers.end()) return static_cast<int>(found - barriers.begin());
  barriers.push_back(name);
  return static_cast<int>(barriers.size()) - 1;
}

// An instruction that all lanes of a warp execute as one: the last to arrive executes it for all.
template <class Execute>
Operands execute_together(const char* instruction, const Operands& operands, Execute execute) {
  Warp& warp = this_warp();
  const int lane = this_lane();
  Operands(&round)[kLanes] = warp.rounds[warp.round_of[lane]++ % 2];
  round[lane] = operands;
  warp.instruction_of[lane] = instruction;
  if (++warp.arrived == kLanes) {
    warp.arrived = 0;
    for (const char* other : warp.instruction_of) {
      if (std::strcmp(other, instruction) != 0) {
        throw std::runtime_error(std::string("lanes of a warp at ") + instruction + " and " +
                                 other);
      }
    }
    execute(round);
  }
  wait(State::kAtWarp);
  return round[lane];
}

inline float bf16_to_float(uint32_t bits) {
  const uint32_t wide = bits << 16;
  float x;
  std::memcpy(&x, &wide, sizeof(x));
  return x;
}

inline float bits_to_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

inline uint32_t float_to_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}

inline uint32_t round_to_bf16(float x) {
  const uint32_t bits = float_to_bits(x);
  if (std::isnan(x)) return 0x7fff;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// As tensor cores leave a sum.
inline float round_toward_zero(double x) {
  const float nearest = static_cast<float>(x);
  return std::fabs(nearest) > std::fabs(x) ? std::nextafter(nearest, 0.0f) : nearest;
}

// c [16 x 8] += a [16 x kDepth] b [kDepth x 8], given where the instruction has every value of a
// and b: in which lane and which register.
template <int kDepth, class A, class B>
void multiply_matrices(Operands (&lanes)[kLanes], A a_at, B b_at) {
  float a[16][kDepth], b[kDepth][8];
  for (int k = 0; k < kDepth; ++k) {
    for (int row = 0; row < 16; ++row) a[row][k] = a_at(row, k);
    for (int column = 0; column < 8; ++column) b[k][column] = b_at(k, column);
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
      double sum = lanes[lane].c[i];
      for (int k = 0; k < kDepth; ++k) sum += static_cast<double>(a[row][k]) * b[k][column];
      lanes[lane].c[i] = round_toward_zero(sum);
    }
  }
}

template <class Execute>
void multiply_together(const char* instruction, float (&c)[4], const uint32_t (&a)[4],
                       const uint32_t (&b)[2], Execute execute) {
  const Operands operands{
      {a[0], a[1], a[2], a[3]}, {b[0], b[1]}, {c[0], c[1], c[2], c[3]}, nullptr};
  const Operands result = execute_together(instruction, operands, execute);
  std::copy(result.c, result.c + 4, c);
}

inline void load_together(const char* instruction, uint32_t (&matrices)[4], const void* line,
                          bool transposed) {
  if (reinterpret_cast<uintptr_t>(line) % 16 != 0) {
    throw std::runtime_error(std::string(instruction) + ": a line that is not aligned");
  }
  const Operands result =
      execute_together(instruction, Operands{{}, {}, {}, line}, [&](Operands(&lanes)[kLanes]) {
        for (int lane = 0; lane < kLanes; ++lane) {
          for (int matrix = 0; matrix < 4; ++matrix) {
            uint32_t pair[2];
            for (int i = 0; i < 2; ++i) {
              int row = lane / 4, column = 2 * (lane % 4) + i;
              if (transposed) std::swap(row, column);
              pair[i] = static_cast<const uint16_t*>(lanes[8 * matrix + row].address)[column];
            }
            lanes[lane].a[matrix] = pair[0] | pair[1] << 16;
          }
        }
      });
  std::copy(result.a, result.a + 4, matrices);
}

}  // namespace emulation

// CUDA C++'s own functions.

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const int barrier = emulation::number_of_barrier(file, line);
  if (barrier == emulation::left_out) return;
  emulation::this_thread().barrier = barrier;
  emulation::wait(emulation::State::kAtBlock);
}

inline void __syncwarp(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  if (emulation::number_of_barrier(file, line) == emulation::left_out) return;
  emulation::execute_together("__syncwarp", {}, [](auto&) {});
}

inline unsigned __ballot_sync(unsigned, bool vote) {
  emulation::Operands operands{};
  operands.a[0] = vote;
  operands = emulation::execute_together("__ballot_sync", operands, [](auto& lanes) {
    unsigned votes = 0;
    for (int i = 0; i < emulation::kLanes; ++i) votes |= lanes[i].a[0] << i;
    for (auto& lane : lanes) lane.a[0] = votes;
  });
  return operands.a[0];
}

template <class T>
T __shfl_sync(unsigned, T value, int source) {
  static_assert(sizeof(T) == sizeof(uint32_t));
  emulation::Operands operands{};
  std::memcpy(&operands.a[0], &value, sizeof(value));
  operands.a[1] = source;
  operands = emulation::execute_together("shuffle", operands, [](auto& lanes) {
    for (auto& lane : lanes) lane.a[2] = lanes[lane.a[1]].a[0];
  });
  std::memcpy(&value, &operands.a[2], sizeof(value));
  return value;
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int apart) {
  return __shfl_sync(mask, value, emulation::this_lane() ^ apart);
}

template <class T>
T __ldg(const T* place) {
  if (reinterpret_cast<uintptr_t>(place) % alignof(T) != 0) {
    throw std::runtime_error("__ldg: a place that is not aligned");
  }
  return *place;
}

inline float __uint_as_float(uint32_t bits) { return emulation::bits_to_float(bits); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float x, float y) { return x / y; }

// What csrc/cuda/instructions.cuh and csrc/cuda/launch.cuh have for a GPU.
namespace torchrec_gr::cuda {

// Done at once, or only when they are waited for.
template <int kBytes>
void copy_async(void* to, const void* from) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % kBytes != 0) {
    throw std::runtime_error("an asynchronous copy that is not aligned");
  }
  emulation::Thread& thread = emulation::this_thread();
  thread.copies.push_back({to, from, kBytes});
  if (kBytes == 2 || emulation::draw() % 2 == 0) emulation::finish_copies(thread);
}

inline void wait_for_copies(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  if (emulation::number_of_barrier(file, line) == emulation::left_out) return;
  emulation::finish_copies(emulation::this_thread());
}

inline void load_matrices(uint32_t (&matrices)[4], const void* line) {
  emulation::load_together("ldmatrix", matrices, line, false);
}

inline void load_matrices_transposed(uint32_t (&matrices)[4], const void* line) {
  emulation::load_together("ldmatrix.trans", matrices, line, true);
}

inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulation::multiply_together("mma.bf16", c, a, b, [](auto& lanes) {
    const auto half = [](uint32_t pair, int k) {
      return emulation::bf16_to_float(k % 2 ? pair >> 16 : pair & 0xffff);
    };
    emulation::multiply_matrices<16>(
        lanes,
        [&](int row, int k) {
          return half(lanes[row % 8 * 4 + k % 8 / 2].a[row / 8 + k / 8 * 2], k);
        },
        [&](int k, int column) { return half(lanes[column * 4 + k % 8 / 2].b[k / 8], k); });
  });
}

inline void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulation::multiply_together("mma.tf32", c, a, b, [](auto& lanes) {
    const auto tf32 = [](uint32_t bits) { return emulation::bits_to_float(bits & ~0x1fffu); };
    emulation::multiply_matrices<8>(
        lanes,
        [&](int row, int k) { return tf32(lanes[row % 8 * 4 + k % 4].a[row / 8 + k / 4 * 2]); },
        [&](int k, int column) { return tf32(lanes[column * 4 + k % 4].b[k / 4]); });
  });
}

inline uint32_t round_to_tf32(float x) { return (emulation::float_to_bits(x) + 0x1000) & ~0x1fffu; }

inline uint32_t round_to_bf16_pair(float low, float high) {
  return emulation::round_to_bf16(low) | emulation::round_to_bf16(high) << 16;
}

inline void expect(bool holds, const char* message) {
  if (!holds) throw std::runtime_error(message);
}

// Runs the blocks one after the other.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, int num_threads, size_t shared_bytes,
            cudaStream_t, const Arguments&... arguments) {
  if (shared_bytes > kMaxSharedBytes) throw std::runtime_error("too much shared memory");
  if (num_threads > 1024 || num_threads % emulation::kLanes != 0 || grid.x == 0 || grid.y == 0 ||
      grid.z == 0 || grid.y > 65535 || grid.z > 65535) {
    throw std::runtime_error("a grid that cannot be launched");
  }
  gridDim = grid;
  blockDim = dim3(num_threads);
  emulation::threads.resize(num_threads);
  emulation::warps.resize(num_threads / emulation::kLanes);
  emulation::failure = nullptr;
  emulation::kernel_body = [&] { kernel(arguments...); };
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        emulation::run_guarded_block(shared_bytes);
      }
    }
  }
}

}  // namespace torchrec_gr::cuda
