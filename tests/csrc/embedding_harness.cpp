// Runs the kernels of embedding tables without torch, so that sanitizers see all that runs:
//
//     embedding_harness --quick | --long
//
// Each is compared with a plain model, on several numbers of threads, which must give the same
// bits. Buffers are as large as they must be, so that every step beside them shows.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "cpu/embedding/eviction.h"
#include "cpu/embedding/initial_values.h"
#include "cpu/embedding/route_ids.h"
#include "cpu/embedding/row_optimizers.h"
#include "cpu/embedding/row_sums.h"
#include "cpu/embedding/unique_ids.h"
#include "embedding_batch.h"
#include "embedding_map_trial.h"

namespace torchrec_gr::embedding {
namespace {

// ---- Ids ----

void try_map(uint64_t seed, int64_t batch_size, int64_t variety, int num_operations) {
  constexpr int64_t kNumTables = 3;
  std::vector<uint64_t> expected;
  for (int num_threads : kThreadCounts) {
    Draw draw(seed);
    MapTrial trial(kNumTables, std::min(kMaxRows, 2 * batch_size), on_threads(num_threads));
    for (int i = 0; i < num_operations; ++i) {
      const Batch batch = draw.batch(batch_size, kNumTables, variety);
      draw.below(3) == 0 ? trial.remove(batch) : trial.insert(batch);
      trial.check_batch(draw.batch(batch_size, kNumTables, variety));
    }
    trial.check_all();
    if (num_threads == 1) expected = trial.entries();
    check(trial.entries() == expected, "threads change the entries");
  }
}

void try_unique(uint64_t seed, int64_t num_ids, int64_t variety) {
  Draw draw(seed);
  const Batch batch = draw.batch(num_ids, 4, variety);
  std::map<Key, int64_t> numbers;
  std::vector<int64_t> expected, expected_inverse;
  for (int64_t i = 0; i < num_ids; ++i) {
    const auto [known, is_new] =
        numbers.insert({{batch.table_of(i), batch.ids[i]}, std::ssize(expected)});
    if (is_new) expected.push_back(batch.ids[i]);
    expected_inverse.push_back(known->second);
  }
  for (int num_threads : kThreadCounts) {
    std::vector<int64_t> inverse(num_ids), starts(batch.offsets.size());
    find_first_positions(batch.view(), inverse.data(), on_threads(num_threads));
    check(number_ids(batch.view(), inverse.data(), starts.data()) == expected, "other unique ids");
    check(inverse == expected_inverse, "another inverse");
    check(starts.front() == 0 && starts.back() == std::ssize(expected), "other offsets");
  }
}

void try_route(uint64_t seed, int64_t num_ids, int64_t num_owners) {
  constexpr int64_t kNumTables = 4;
  Draw draw(seed);
  const Batch batch = draw.batch(num_ids, kNumTables, 1 << 20);
  const auto group_of = [&](int64_t i) {
    return Owners(num_owners)(batch.ids[i]) * kNumTables + batch.table_of(i);
  };
  std::vector<int64_t> expected(num_ids), expected_lengths(num_owners * kNumTables);
  for (int64_t i = 0; i < num_ids; ++i) {
    expected[i] = i;
    ++expected_lengths[group_of(i)];
  }
  std::ranges::stable_sort(expected, {}, group_of);
  for (int num_threads : kThreadCounts) {
    std::vector<int64_t> order(num_ids), lengths(num_owners * kNumTables);
    route_ids(batch.view(), num_owners, order.data(), lengths.data(), on_threads(num_threads));
    check(order == expected, "another order");
    check(lengths == expected_lengths, "other lengths");
  }
}

// ---- Rows ----

void try_evict(uint64_t seed, int64_t num_chunks, int64_t num, Policy policy) {
  constexpr int64_t kStep = 40;
  Draw draw(seed);
  std::vector<std::vector<int64_t>> ids(num_chunks);
  std::vector<std::vector<int32_t>> seen(num_chunks);
  Chunks<const int64_t> id_chunks;
  Chunks<const int32_t> seen_chunks{{}, 2};
  std::vector<int64_t> chunks;
  std::vector<std::pair<std::vector<int64_t>, int64_t>> rows;
  for (int64_t chunk = 0; chunk < num_chunks; ++chunk) {
    const int64_t num_rows = draw.below(3000);
    for (int64_t row = 0; row < num_rows; ++row) {
      ids[chunk].push_back(draw.id(100));
      seen[chunk].push_back(static_cast<int32_t>(draw.below(5)));
      seen[chunk].push_back(static_cast<int32_t>(draw.below(50)));
      const int64_t count = seen[chunk][2 * row], last = seen[chunk][2 * row + 1];
      if (count == 0 || last >= kStep || chunk == 1) continue;
      const bool by_last = policy == Policy::kLeastRecent;
      rows.push_back(
          {{by_last ? last : count, by_last ? count : last, ids[chunk][row]}, slot_of(chunk, row)});
    }
    id_chunks.list.push_back({ids[chunk].data(), static_cast<int32_t>(num_rows)});
    seen_chunks.list.push_back({seen[chunk].data(), static_cast<int32_t>(num_rows)});
    if (chunk != 1) chunks.push_back(chunk);
  }
  std::sort(rows.begin(), rows.end());
  std::vector<int64_t> expected;
  for (const auto& [key, slot] : rows) expected.push_back(slot);
  expected.resize(std::min<size_t>(expected.size(), num));
  for (int num_threads : kThreadCounts) {
    check(rows_to_evict(id_chunks, seen_chunks, chunks, num, policy, kStep,
                        on_threads(num_threads)) == expected,
          "other rows");
  }
}

void try_optimizer(uint64_t seed, int64_t width, Optimizer optimizer) {
  const OptimizerStep step{optimizer, 0.1f, 1e-3f};
  Draw draw(seed);
  std::vector<float> weight(width), grad(width), state(step.state_width(width), 0.5f);
  double mean_square = 0;
  for (int64_t i = 0; i < width; ++i) {
    weight[i] = static_cast<float>(draw.below(1000)) * 1e-3f;
    grad[i] = static_cast<float>(draw.below(1000)) * 1e-3f - 0.5f;
    mean_square += static_cast<double>(grad[i]) * grad[i] / static_cast<double>(width);
  }
  const std::vector<float> before = weight;
  step.update(weight.data(), state.data(), grad.data(), width);
  for (int64_t i = 0; i < width; ++i) {
    const double square =
        optimizer == Optimizer::kAdagrad ? static_cast<double>(grad[i]) * grad[i] : mean_square;
    const double root = optimizer == Optimizer::kSGD ? 1 : std::sqrt(0.5 + square) + 1e-3;
    check(std::abs(weight[i] - (before[i] - 0.1 * grad[i] / root)) < 1e-6, "another weight");
  }
}

void try_initial_values(uint64_t seed, int64_t width) {
  const InitialValues values(static_cast<int64_t>(seed), 0.5f);
  const int64_t id = Draw(seed).id(100);
  std::vector<float> row(width), wider(width + 70);
  values.fill(id, row.data(), width);
  values.fill(id, wider.data(), width + 70);
  wider.resize(width);
  check(row == wider, "a value depends on the width");
  constexpr float most = 3.5f;
  for (float value : row) check(std::abs(value) <= most, "a value is out of range");
}

// ---- All of it ----

// What bags read, and the sums of what goes back, against one place after the other.
void try_row_sums(uint64_t seed, int64_t num_places, int64_t num_rows, int64_t dim,
                  bool has_factors) {
  Draw draw(seed);
  const auto values = [&](int64_t count) {
    std::vector<float> drawn(count);
    for (float& value : drawn) value = static_cast<float>(draw.below(64)) - 32;
    return drawn;
  };
  std::vector<int64_t> index(num_places), bounds = {0};
  for (int64_t& place : index) place = draw.below(num_rows);
  while (bounds.back() < num_places) {
    bounds.push_back(std::min(num_places, bounds.back() + draw.below(9)));
  }
  const int64_t num_bags = std::ssize(bounds) - 1;
  const std::vector<float> factors = values(num_places), grads = values(num_bags * dim);
  const Bags bags{index.data(), num_places, bounds.data(), num_bags,
                  has_factors ? factors.data() : nullptr};
  std::vector<float> expected(num_rows * dim);
  for (int64_t b = 0; b < num_bags; ++b) {
    for (int64_t i = bounds[b]; i < bounds[b + 1]; ++i) {
      for (int64_t d = 0; d < dim; ++d) {
        expected[index[i] * dim + d] += bags.factor(i) * grads[b * dim + d];
      }
    }
  }
  for (int num_threads : kThreadCounts) {
    const PlacesOfRows places(bags, num_rows);
    std::vector<float> sums(num_rows * dim, -1);
    on_threads(num_threads)(places.work(), 1, [&](int64_t begin, int64_t end) {
      places.for_share(begin, end, [&](int64_t first, int64_t last) {
        for (int64_t r = first; r < last; ++r) {
          places.prefetch(r, grads.data(), dim);
          places.sum(r, grads.data(), dim, sums.data() + r * dim);
        }
      });
    });
    check(sums == expected, "a row's sum is another");
  }
}

class Harness {
 public:
  void run(const std::string& name, const std::function<void()>& trial) {
    try {
      trial();
    } catch (const Failure& failure) {
      std::printf("%s: %s\n", name.c_str(), failure.what());
      ++num_failed_;
    }
    ++num_run_;
  }

  bool report() const {
    std::printf("%d of %d trials failed\n", num_failed_, num_run_);
    return num_failed_ == 0;
  }

 private:
  int num_run_ = 0;
  int num_failed_ = 0;
};

// The sizes that make kernels take other ways are around 8,192 and 32,768 ids and 65,536 places.
bool run_all(bool is_long) {
  Harness harness;
  const auto named = [](const char* name, auto... numbers) {
    std::string text = name;
    ((text += " " + std::to_string(numbers)), ...);
    return text;
  };
  for (uint64_t seed = 0; seed < (is_long ? 10 : 2); ++seed) {
    for (int64_t size : {0, 1, 10, 100, 2000}) {
      for (int64_t variety : {3, 40, 5000}) {
        harness.run(named("map", seed, size, variety),
                    [=] { try_map(seed, size, variety, is_long ? 40 : 12); });
      }
    }
    harness.run(named("large map", seed), [=] { try_map(seed, 30'000, 100'000, 5); });
    for (int64_t size : {0, 1, 50, 16'384, 40'000}) {
      for (int64_t variety : {1, 100, 100'000}) {
        harness.run(named("unique", seed, size, variety), [=] { try_unique(seed, size, variety); });
      }
      for (int64_t num_owners : {1, 2, 5}) {
        harness.run(named("route", seed, size, num_owners),
                    [=] { try_route(seed, size, num_owners); });
      }
    }
    for (int64_t num : {0, 1, 500, 100'000}) {
      for (Policy policy : {Policy::kLeastRecent, Policy::kLeastFrequent}) {
        harness.run(named("evict", seed, num, static_cast<int>(policy)),
                    [=] { try_evict(seed, 6, num, policy); });
      }
    }
    for (int64_t num_places : {0, 1, 700}) {
      for (int64_t num_rows : {1, 40, 3000}) {
        for (bool has_factors : {false, true}) {
          harness.run(named("row sums", seed, num_places, num_rows, has_factors),
                      [=] { try_row_sums(seed, num_places, num_rows, 5, has_factors); });
        }
      }
    }
    for (int64_t width = 1; width < 140; width += 1 + width / 8) {
      for (Optimizer each : {Optimizer::kSGD, Optimizer::kAdagrad, Optimizer::kRowWiseAdagrad}) {
        harness.run(named("optimizer", seed, width, static_cast<int>(each)),
                    [=] { try_optimizer(seed, width, each); });
      }
      harness.run(named("initial values", seed, width), [=] { try_initial_values(seed, width); });
    }
  }
  return harness.report();
}

}  // namespace
}  // namespace torchrec_gr::embedding

int main(int argc, char** argv) {
  const std::string choice = argc == 2 ? argv[1] : "";
  if (choice != "--quick" && choice != "--long") {
    std::fprintf(stderr, "usage: %s --quick | --long\n", argv[0]);
    return 2;
  }
  return torchrec_gr::embedding::run_all(choice == "--long") ? 0 : 1;
}
