// An activation is what HSTU's attention and softmax attention differ in. To the kernels it is a
// type with
//   - kNormalised: whether a weight depends on the query's other scores;
//   - Forward<T>, a lane's state: weigh() turns the scores of a tile of keys into weights, and
//     readies the sums over earlier tiles for what these add to them; finish() completes the sums;
//   - backward<T>(): a weight and the gradient of its score, from the gradient of the weight.
// hstu_attention.cuh and jagged_softmax_attention.cuh have one each. Here is what they compute
// with: as exact as the type that the weights are multiplied in.
#pragma once

#include "tile.cuh"

namespace torchrec_gr::cuda {

template <class T>
__device__ __forceinline__ float exponential(float x);
template <>
__device__ __forceinline__ float exponential<float>(float x) {
  return expf(x);
}
template <>
__device__ __forceinline__ float exponential<BFloat16>(float x) {
  return __expf(x);
}

template <class T>
__device__ __forceinline__ float reciprocal(float x);
template <>
__device__ __forceinline__ float reciprocal<float>(float x) {
  return 1.0f / x;
}
template <>
__device__ __forceinline__ float reciprocal<BFloat16>(float x) {
  return __fdividef(1.0f, x);
}

}  // namespace torchrec_gr::cuda
