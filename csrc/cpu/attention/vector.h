// Vectors of floats as wide as the instruction set that the including file compiles for, and the
// functions of them that attention needs.
//
// Every header of this folder keeps its code in an unnamed namespace: each instruction set gets a
// copy of its own, so that the linker can never put one's code in the place of another's.
#pragma once

#include <cstdint>
#include <cstring>

#ifndef TORCHREC_GR_VECTOR_BYTES
#error "define TORCHREC_GR_VECTOR_BYTES, the width of a vector register, before the kernels"
#endif

namespace torchrec_gr::cpu {
namespace {

constexpr int kLanes = TORCHREC_GR_VECTOR_BYTES / 4;

using Floats = float __attribute__((vector_size(TORCHREC_GR_VECTOR_BYTES)));
using Ints = int32_t __attribute__((vector_size(TORCHREC_GR_VECTOR_BYTES)));
using Words = uint32_t __attribute__((vector_size(TORCHREC_GR_VECTOR_BYTES)));

template <class Vector, class Element>
inline Vector load(const Element* from) {
  Vector vector;
  std::memcpy(&vector, from, sizeof(Vector));
  return vector;
}

template <class Vector, class Element>
inline void store(Element* to, Vector vector) {
  std::memcpy(to, &vector, sizeof(Vector));
}

inline Floats broadcast(float value) { return value - Floats{}; }

inline Ints lane_numbers() {
  Ints numbers;
  for (int lane = 0; lane < kLanes; ++lane) numbers[lane] = lane;
  return numbers;
}

inline Floats to_floats(Ints values) { return __builtin_convertvector(values, Floats); }

inline Floats abs(Floats x) { return x < 0 ? -x : x; }

inline float sum(Floats x) {
  float total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += x[lane];
  return total;
}

inline float max(Floats x) {
  float largest = x[0];
  for (int lane = 1; lane < kLanes; ++lane) largest = x[lane] > largest ? x[lane] : largest;
  return largest;
}

// e^x to about one unit in the last place; 0 below e^-87, finite however large x is. 2^n comes from
// the exponent's bits and 2^f, f in [-1/2, 1/2], from its minimax polynomial.
inline Floats exp(Floats x) {
  x = x > 88.0f ? broadcast(88.0f) : x;
  constexpr float kLog2E = 1.44269502f, kLog2ERest = 1.92596299e-8f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the integer in the low bits
  const Floats shifted = x * kLog2E + kRound;
  const Floats f = (x * kLog2E - (shifted - kRound)) + x * kLog2ERest;
  Floats power = broadcast(1.53458124e-4f);
  for (float coefficient :
       {1.33999309e-3f, 9.61848907e-3f, 5.55032864e-2f, 2.40226462e-1f, 6.93147182e-1f, 1.0f}) {
    power = power * f + coefficient;
  }
  Words exponent, bits;
  std::memcpy(&exponent, &shifted, sizeof exponent);
  std::memcpy(&bits, &power, sizeof bits);
  bits += exponent << 23;
  std::memcpy(&power, &bits, sizeof power);
  return x < -87.0f ? Floats{} : power;
}

// The entries of `from` at `places`.
inline Floats gather(const float* from, Ints places) {
#if TORCHREC_GR_VECTOR_BYTES == 64
  return _mm512_i32gather_ps((__m512i)places, from, 4);
#elif TORCHREC_GR_VECTOR_BYTES == 32
  return _mm256_i32gather_ps(from, (__m256i)places, 4);
#else
  Floats entries;
  for (int lane = 0; lane < kLanes; ++lane) entries[lane] = from[places[lane]];
  return entries;
#endif
}

// 1 / x for positive x, to about one unit in the last place: an estimate and a Newton step.
inline Floats reciprocal(Floats x) {
#if TORCHREC_GR_VECTOR_BYTES == 64
  const Floats estimate = _mm512_rcp14_ps(x);
#elif TORCHREC_GR_VECTOR_BYTES == 32
  const Floats estimate = _mm256_rcp_ps(x);
#else
  return 1.0f / x;
#endif
#if TORCHREC_GR_VECTOR_BYTES > 16
  return estimate * (2.0f - x * estimate);
#endif
}

inline Floats sigmoid(Floats x) { return reciprocal(1.0f + exp(-x)); }

}  // namespace
}  // namespace torchrec_gr::cpu
