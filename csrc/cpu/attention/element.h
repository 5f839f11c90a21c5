// What q, k and v are stored as, and what the products multiply.
//
// A product's depth is counted in words of 32 bits: one float, or a pair of bfloat16 that one
// instruction multiplies and adds. Both kinds of word then share every loop and layout.
#pragma once

#include "vector.h"

namespace torchrec_gr::cpu {
namespace {

struct BFloat16 {
  uint16_t bits;
};

inline float to_float(float x) { return x; }

inline float to_float(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The words whose upper halves are x rounded to bfloat16, to the nearest and ties to even. The
// lower halves may hold anything.
inline Words round_to_upper_half(Floats x) {
#ifdef TORCHREC_GR_BFLOAT16_PAIRS
  const __m512i halves = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x));
  return (Words)_mm512_slli_epi32(halves, 16);
#else
  Words bits;
  std::memcpy(&bits, &x, sizeof bits);
  const Words rounded = bits + 0x7fff + ((bits >> 16) & 1);
  const Words nan = bits | 0x400000;  // rounding could carry a NaN into infinity
  return x == x ? rounded : nan;
#endif
}

inline void store_as(float* to, Floats x) { store(to, x); }

inline void store_upper_halves(void* to, Words words) {
  using Halves = uint16_t __attribute__((vector_size(TORCHREC_GR_VECTOR_BYTES / 2)));
  const Halves halves = __builtin_convertvector(words >> 16, Halves);
  std::memcpy(to, &halves, sizeof halves);
}

inline void store_as(BFloat16* to, Floats x) { store_upper_halves(to, round_to_upper_half(x)); }

// Products of floats, whatever is stored.
struct FloatWord {
  using Type = float;
  using Element = float;
  static constexpr int kDepth = 1;      // elements along a product's depth in one word
  static constexpr int kDepthStep = 1;  // elements by which a depth may be cut short
  static constexpr int kGroup = 8;      // rows that are multiplied together

  static Floats load(const float* from) { return cpu::load<Floats>(from); }

  static Floats multiply_add(float a, Floats b, Floats sum) { return a * b + sum; }

  // The word of the element at `first` and of the next along the depth, `step` further.
  template <class Element>
  static float pack(const Element* first, int64_t) {
    return to_float(*first);
  }

  // The word of the last element where there is no next.
  template <class Element>
  static float pack_last(const Element* last) {
    return to_float(*last);
  }

  struct Session {};  // what a thread sets up to compute and gives back

  // Whether a left factor that is transposed must be laid out anew, by rows.
  static constexpr bool kTransposedByRows = false;
};

#ifdef TORCHREC_GR_BFLOAT16_PAIRS
// Products of pairs of bfloat16, summed in float.
struct PairWord {
  using Type = uint32_t;
  using Element = BFloat16;
  static constexpr int kDepth = 2;
  static constexpr int kDepthStep = 2;
  static constexpr int kGroup = 8;

  static Words load(const uint32_t* from) { return cpu::load<Words>(from); }

  static Floats multiply_add(uint32_t a, Words b, Floats sum) {
    return _mm512_dpbf16_ps(sum, (__m512bh)(a - Words{}), (__m512bh)b);
  }

  static uint32_t pack(const BFloat16* first, int64_t step) {
    return first[0].bits | static_cast<uint32_t>(first[step].bits) << 16;
  }

  static uint32_t pack_last(const BFloat16* last) { return last->bits; }

  struct Session {};  // what a thread sets up to compute and gives back

  // Whether a left factor that is transposed must be laid out anew, by rows.
  static constexpr bool kTransposedByRows = false;
};
#endif

}  // namespace
}  // namespace torchrec_gr::cpu
