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
    const Floats s = sigmoid(score);
    const Floats weight = score * s;
    return {weight, weight_gradient * (weight * (1.0f - s) + s)};
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
