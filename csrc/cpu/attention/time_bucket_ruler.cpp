#include "time_bucket_ruler.h"

#include <cmath>
#include <limits>

namespace torchrec_gr::cpu {
namespace {

double from_bits(uint64_t bits) {
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The smallest double in (low, high] whose bucket is above that of low; high's is.
double first_above(uint64_t low, uint64_t high) {
  const int bucket = time_bucket(from_bits(low), kMaxTimeBuckets);
  while (high - low > 1) {
    const uint64_t middle = low + (high - low) / 2;
    (time_bucket(from_bits(middle), kMaxTimeBuckets) > bucket ? high : low) = middle;
  }
  return from_bits(high);
}

}  // namespace

TimeBucketRuler::TimeBucketRuler() {
  for (int cell = 0; cell < kNumCells; ++cell) {
    const uint64_t begin = (kFirstCell + cell) << kCellShift;
    const uint64_t last = ((kFirstCell + cell + 1) << kCellShift) - 1;
    const int bucket = time_bucket(from_bits(begin), kMaxTimeBuckets);
    const bool one_begins = time_bucket(from_bits(last), kMaxTimeBuckets) > bucket;
    cells_[cell] = {one_begins ? first_above(begin, last) : std::numeric_limits<double>::infinity(),
                    bucket};
  }
}

const TimeBucketRuler& time_bucket_ruler() {
  static const TimeBucketRuler ruler;
  return ruler;
}

}  // namespace torchrec_gr::cpu
