// The bucket of a distance in time without a logarithm.
#pragma once

#include <cstdint>
#include <cstring>

#include "../../time_buckets.h"

namespace torchrec_gr::cpu {

// The floating point format divides distances into eight cells an octave, each narrower than a
// bucket: so at most one bucket begins inside a cell, and a table and a comparison give the bucket.
class TimeBucketRuler {
 public:
  TimeBucketRuler();

  // What time_bucket(distance, kMaxTimeBuckets) says, for a distance that is not negative.
  int bucket(double distance) const {
    if (distance < 1.0) return 0;
    uint64_t bits;
    std::memcpy(&bits, &distance, sizeof bits);
    const Cell& cell = cells_[(bits >> kCellShift) - kFirstCell];
    return cell.bucket + (distance >= cell.next_begins);
  }

 private:
  static constexpr int kCellShift = 49;  // 52 bits of mantissa, of which 3 number the cell
  static constexpr uint64_t kFirstCell = uint64_t{1023} << 3;  // that of 1.0
  static constexpr int kNumCells = 65 * 8;                     // up to 2^65

  struct Cell {
    double next_begins;
    int bucket;
  };

  Cell cells_[kNumCells];
};

// Made at first use.
const TimeBucketRuler& time_bucket_ruler();

}  // namespace torchrec_gr::cpu
