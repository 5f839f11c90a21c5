// Work that threads share, without torch.
#pragma once

#include <cstdint>
#include <functional>

namespace torchrec_gr::embedding {

using Share = std::function<void(int64_t begin, int64_t end)>;

// Calls share(begin, end) for parts that make up 0:count, on several threads where there is more
// than `grain` to do. Which parts, must not change a result.
using ParallelFor = std::function<void(int64_t count, int64_t grain, const Share& share)>;

}  // namespace torchrec_gr::embedding
