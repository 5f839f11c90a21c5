// HSTU's attention: a weight is silu(score) * scale, whatever the query's other scores.
#pragma once

#include "activation.cuh"
#include "fragments.cuh"
#include "scores.cuh"

namespace torchrec_gr::cuda {

struct Silu {
  static constexpr bool kNormalised = false;

  template <class T>
  struct Forward {
    template <int kScores, int kSums>
    __device__ __forceinline__ void weigh(Accumulator (&scores)[kScores], Accumulator (&)[kSums],
                                          float scale) {
      for_each_value(scores, [&](float& score, int, int) {
        score = score == kHidden ? 0.0f : score * sigmoid<T>(score) * scale;
      });
    }

    template <int kSums>
    __device__ __forceinline__ void finish(Accumulator (&)[kSums]) {}
  };

  template <class T>
  __device__ __forceinline__ static void backward(float score, float grad_weight, float scale,
                                                  const QueryFacts&, float& weight,
                                                  float& grad_score) {
    const float share = sigmoid<T>(score);
    weight = score * share * scale;
    grad_score = grad_weight * scale * share * (1.0f + score * (1.0f - share));
  }

 private:
  template <class T>
  __device__ __forceinline__ static float sigmoid(float x) {
    return reciprocal<T>(1.0f + exponential<T>(-x));
  }
};

}  // namespace torchrec_gr::cuda
