// One step of an optimizer on a row of a table.
#pragma once

#include <cmath>
#include <cstdint>

namespace torchrec_gr::embedding {

enum class Optimizer { kSGD, kAdagrad, kRowWiseAdagrad };

struct OptimizerStep {
  Optimizer optimizer;
  float lr;
  float eps;

  // How many floats of state a row of some width has.
  int64_t state_width(int64_t width) const {
    switch (optimizer) {
      case Optimizer::kSGD:
        return 0;
      case Optimizer::kAdagrad:
        return width;
      case Optimizer::kRowWiseAdagrad:
        return 1;
    }
    return 0;
  }

  void update(float* __restrict weight, float* __restrict state, const float* __restrict grad,
              int64_t width) const {
    switch (optimizer) {
      case Optimizer::kSGD:
        return descend(weight, grad, lr, width);
      case Optimizer::kAdagrad:
        for (int64_t i = 0; i < width; ++i) {
          state[i] += grad[i] * grad[i];
          weight[i] -= lr * grad[i] / (std::sqrt(state[i]) + eps);
        }
        return;
      case Optimizer::kRowWiseAdagrad:
        state[0] += sum_of_squares(grad, width) / static_cast<float>(width);
        return descend(weight, grad, lr / (std::sqrt(state[0]) + eps), width);
    }
  }

 private:
  static void descend(float* __restrict weight, const float* __restrict grad, float step,
                      int64_t width) {
    for (int64_t i = 0; i < width; ++i) weight[i] -= step * grad[i];
  }

  // In lanes, so that it is vectorised.
  static float sum_of_squares(const float* x, int64_t width) {
    constexpr int kLanes = 8;
    float lanes[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += x[i + lane] * x[i + lane];
    }
    float sum = 0;
    for (; i < width; ++i) sum += x[i] * x[i];
    for (float lane : lanes) sum += lane;
    return sum;
  }
};

}  // namespace torchrec_gr::embedding
