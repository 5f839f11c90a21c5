// Items sorted by their group, by several threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "shares.h"

namespace torchrec_gr::embedding {

// Sorts `count` items stably by their groups, of which there are num_groups.
// for_each(begin, end, visit) calls visit(group, item) for the items begin:end in order, always the
// same. Returns where each group starts, and behind them the count.
template <typename Item, typename ForEach>
std::vector<int64_t> sort_by_group(int64_t count, int64_t num_groups, const ForEach& for_each,
                                   Item* sorted, const ParallelFor& parallel_for) {
  constexpr int64_t kBlock = 32 * 1024;
  const int64_t num_blocks = (count + kBlock - 1) / kBlock;
  std::vector<int64_t> places(num_blocks * num_groups);  // block by block, at first their sizes
  const auto for_each_block = [&](const auto& visit) {
    parallel_for(num_blocks, 1, [&](int64_t first, int64_t last) {
      for (int64_t block = first; block < last; ++block) {
        int64_t* of_block = places.data() + block * num_groups;
        const int64_t end = std::min(count, (block + 1) * kBlock);
        for_each(block * kBlock, end,
                 [&](int64_t group, Item item) { visit(of_block[group], item); });
      }
    });
  };
  for_each_block([](int64_t& size, const Item&) { ++size; });
  std::vector<int64_t> starts(num_groups + 1, count);
  int64_t place = 0;
  for (int64_t group = 0; group < num_groups; ++group) {
    starts[group] = place;
    for (int64_t i = group; i < num_blocks * num_groups; i += num_groups) {
      place += std::exchange(places[i], place);
    }
  }
  for_each_block([&](int64_t& at, const Item& item) { sorted[at++] = item; });
  return starts;
}

}  // namespace torchrec_gr::embedding
