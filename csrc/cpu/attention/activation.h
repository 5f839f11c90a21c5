// What becomes of a score: its weight, and the gradient of the score from that of the weight.
#pragma once

#include "vector.h"

namespace torchrec_gr::cpu {
namespace {

// What the backward pass knows of a query beside its scores; softmax alone reads it.
struct QueryStatistics {
  float log_sum_exp;
  float delta;  // the product of output and its gradient
};

struct WeightAndGradient {
  Floats weight;
  Floats score_gradient;
};

struct Silu {
  static constexpr bool kNormalized = false;

  static Floats weight(Floats score) { return score * sigmoid(score); }

  static WeightAndGradient backward(Floats score, Floats weight_gradient, const QueryStatistics&) {
    const Floats e = exp(-score);
    const Floats s = reciprocal(1.0f + e);  // the sigmoid
    const Floats weight = score * s;
    // 1 - s is e * s, which keeps its digits where s is nearly 1.
    return {weight, weight_gradient * (weight * (e * s) + s)};
  }
};

struct Softmax {
  static constexpr bool kNormalized = true;

  static WeightAndGradient backward(Floats score, Floats weight_gradient,
                                    const QueryStatistics& query) {
    const Floats weight = exp(score - query.log_sum_exp);
    return {weight, weight * (weight_gradient - query.delta)};
  }
};

}  // namespace
}  // namespace torchrec_gr::cpu
