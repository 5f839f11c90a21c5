#include "embedding_arguments.h"

#include "../offsets.h"

namespace torchrec_gr::embedding {

CheckedIds check_ids(const at::Tensor& ids, const at::Tensor& offsets) {
  at::Tensor checked = check_vector<int64_t>("ids", ids);
  check_on_cpu("offsets", offsets);
  return {checked, check_offsets("offsets", offsets, "ids", checked.numel())};
}

Places check_entries(const at::Tensor& entries) {
  TORCH_CHECK_VALUE(entries.dim() == 1 && entries.scalar_type() == at::kLong &&
                        entries.is_contiguous() && is_capacity(entries.numel()),
                    "entries: expected [capacity] int64, contiguous, of a power of two from ",
                    kMinCapacity, " to ", kMaxCapacity, "; got ", described(entries));
  check_on_cpu("entries", entries);
  return Places(entries.numel());
}

}  // namespace torchrec_gr::embedding
