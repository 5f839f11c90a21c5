// The bucket of a time difference, for CPU and CUDA:
//     floor(ln(max(|t_q - t_k|, 1)) / 0.301), at most the table's last
// Source: HSTU, 2402.17152, the published research configuration.
#pragma once

#include <cmath>
#include <cstdint>

#include "spans.h"

namespace torchrec_gr {

constexpr double kLogBucketWidth = 0.301;

// No difference of two int64 reaches this bucket: ln(2^64) / 0.301 < 148.
constexpr int kMaxTimeBuckets = 148;

// Times become doubles before they are subtracted, so that an unknown time (INT64_MIN) does not
// overflow; below 2^53 they are exact.
TORCHREC_GR_HOST_DEVICE inline int time_bucket(double elapsed, int num_buckets) {
  double distance = elapsed < 0 ? -elapsed : elapsed;
  int bucket = distance <= 1.0 ? 0 : static_cast<int>(std::log(distance) / kLogBucketWidth);
  return bucket < num_buckets ? bucket : num_buckets - 1;
}

}  // namespace torchrec_gr
