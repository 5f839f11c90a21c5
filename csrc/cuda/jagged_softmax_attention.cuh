// Softmax attention: a weight is exp(score) over the sum of the query's. The forward pass keeps the
// sum relative to the highest score so far; where that rises, what has been summed shrinks.
// Source: online softmax, Milakov and Gimelshein, 1805.02867; FlashAttention-2, 2307.08691,
// section 3.1.
#pragma once

#include "activation.cuh"
#include "fragments.cuh"
#include "scores.cuh"

namespace torchrec_gr::cuda {

struct Softmax {
  static constexpr bool kNormalised = true;

  template <class T>
  struct Forward {
    float highest[2] = {kHidden, kHidden};  // of the two rows of the lane
    float sum[2] = {0, 0};

    template <int kScores, int kSums>
    __device__ __forceinline__ void weigh(Accumulator (&scores)[kScores],
                                          Accumulator (&sums)[kSums], float) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float before = highest[half];
        highest[half] = row_max(scores, half);
        // A row that has seen no key yet: any reference will do.
        const float reference = highest[half] == kHidden ? 0.0f : highest[half];
        const float shrink = exponential<T>(before - reference);
        sum[half] *= shrink;
#pragma unroll
        for (int f = 0; f < kSums; ++f) {
#pragma unroll
          for (int e = 0; e < 8; ++e) {
            if (half_of(e) == half) sums[f].value(e) *= shrink;
          }
        }
#pragma unroll
        for (int f = 0; f < kScores; ++f) {
#pragma unroll
          for (int e = 0; e < 8; ++e) {
            float& score = scores[f].value(e);
            if (half_of(e) != half) continue;
            score = exponential<T>(score - reference);
            sum[half] += score;
          }
        }
      }
    }

    template <int kSums>
    __device__ __forceinline__ void finish(Accumulator (&sums)[kSums]) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        sum[half] += __shfl_xor_sync(0xffffffff, sum[half], 1);
        sum[half] += __shfl_xor_sync(0xffffffff, sum[half], 2);
        const float share = sum[half] > 0 ? 1.0f / sum[half] : 0.0f;
#pragma unroll
        for (int f = 0; f < kSums; ++f) {
#pragma unroll
          for (int e = 0; e < 8; ++e) {
            if (half_of(e) == half) sums[f].value(e) *= share;
          }
        }
      }
    }

    // After finish(). -inf for a query that sees no key.
    __device__ __forceinline__ float log_sum_exp(int half) const {
      return highest[half] + logf(sum[half]);
    }

   private:
    // The highest of a row's scores and of those before; the row is spread over four lanes.
    template <int kScores>
    __device__ __forceinline__ float row_max(const Accumulator (&scores)[kScores], int half) const {
      float result = highest[half];
#pragma unroll
      for (int f = 0; f < kScores; ++f) {
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          if (half_of(e) == half) result = fmaxf(result, scores[f].value(e));
        }
      }
      result = fmaxf(result, __shfl_xor_sync(0xffffffff, result, 1));
      return fmaxf(result, __shfl_xor_sync(0xffffffff, result, 2));
    }
  };

  template <class T>
  __device__ __forceinline__ static void backward(float score, float grad_weight, float,
                                                  const QueryFacts& query, float& weight,
                                                  float& grad_score) {
    weight = exponential<T>(score - query.log_sum_exp);
    grad_score = weight * (grad_weight - query.output_grad_output);
  }
};

}  // namespace torchrec_gr::cuda
