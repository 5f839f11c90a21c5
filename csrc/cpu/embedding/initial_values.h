// Fresh values of rows, each a function of (seed, id, column) alone. On a CPU of one kind they have
// the same bits whatever its instruction sets: nothing is left to a library of mathematics.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "../../mix.h"

namespace torchrec_gr::embedding {

// From 64 random bits.
struct TwoValues {
  float first;
  float second;
};

// c_0 + c_1 x + c_2 x^2 + ...
template <typename... Floats>
float polynomial(float x, float coefficient, Floats... others) {
  if constexpr (sizeof...(others) == 0) {
    return coefficient;
  } else {
    return coefficient + x * polynomial(x, others...);
  }
}

// log(x) of a normal number, to some units in the last place.
inline float fast_log(float x) {
  constexpr int32_t kRootOfHalf = 0x3f3504f3;  // sqrt(1 / 2)
  constexpr float kLog2 = 0.693147182f;
  int32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const int32_t exponent = (bits - kRootOfHalf) >> 23;
  bits -= exponent * (1 << 23);
  std::memcpy(&x, &bits, sizeof x);  // in [sqrt(1 / 2), sqrt(2))
  const float s = (x - 1) / (x + 1);
  const float series = polynomial(s * s, 2.0f, 2.0f / 3, 2.0f / 5, 2.0f / 7, 2.0f / 9);
  return static_cast<float>(exponent) * kLog2 + s * series;
}

// Independent, of mean 0 and standard deviation 1: the method of Box and Muller.
inline TwoValues two_normal(int32_t first, int32_t second) {
  constexpr float kHalfPi = 1.57079633f;
  const auto uniform = static_cast<float>((first & INT32_MAX) | 1) * 0x1p-31f;  // in (0, 1]
  const float radius = std::sqrt(std::max(0.0f, -2 * fast_log(uniform)));
  const float a = static_cast<float>(second) * (kHalfPi * 0x1p-31f);  // half an angle
  const float sin = a * polynomial(a * a, 1.0f, -1.0f / 6, 1.0f / 120, -1.0f / 5040, 1.0f / 362880,
                                   -1.0f / 39916800);
  const float cos = polynomial(a * a, 1.0f, -1.0f / 2, 1.0f / 24, -1.0f / 720, 1.0f / 40320,
                               -1.0f / 3628800, 1.0f / 479001600);
  return {radius * (cos * cos - sin * sin), radius * (2 * sin * cos)};
}

// Normal values of mean 0 and some standard deviation.
class InitialValues {
 public:
  InitialValues(int64_t seed, float deviation)
      : hash_(static_cast<uint64_t>(seed)), deviation_(deviation) {}

  void fill(int64_t id, float* values, int64_t width) const {
    constexpr int64_t kPairs = 32;
    const IdHash of_pair(hash_(id));
    int32_t first[kPairs], second[kPairs];
    float drawn[2 * kPairs];
    for (int64_t column = 0; column < width; column += 2 * kPairs) {
      const int64_t num_values = std::min(2 * kPairs, width - column);
      const int64_t num_pairs = (num_values + 1) / 2;
      for (int64_t i = 0; i < num_pairs; ++i) {
        const uint64_t bits = of_pair(column / 2 + i);
        first[i] = static_cast<int32_t>(bits >> 32);
        second[i] = static_cast<int32_t>(bits);
      }
      for (int64_t i = 0; i < num_pairs; ++i) {
        const TwoValues two = two_normal(first[i], second[i]);
        drawn[2 * i] = deviation_ * two.first;
        drawn[2 * i + 1] = deviation_ * two.second;
      }
      std::copy_n(drawn, num_values, values + column);
    }
  }

 private:
  IdHash hash_;
  float deviation_;
};

}  // namespace torchrec_gr::embedding
