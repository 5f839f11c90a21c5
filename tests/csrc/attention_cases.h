// The cases of the attention harness: shapes of batches that kernels get wrong first.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <random>
#include <string>
#include <vector>

namespace torchrec_gr {

// A row's numbers of queries and keys.
struct Lengths {
  int num_queries;
  int num_keys;
};

enum class Spans { kRandom, kCausal, kWindow, kCandidates };
enum class Own { kTrailing, kGiven, kNone };
enum class Layout { kContiguous, kGaps, kHeadsFirst };

// Which terms a bias has; whether its tables are shared among the heads; whether positions and
// times of queries are given, or left to their defaults.
struct BiasKind {
  bool slopes = false;
  bool position_table = false;
  bool time_table = false;
  bool is_shared = false;
  bool is_given = false;
};

struct Case {
  std::string name;
  std::vector<Lengths> rows;
  Spans spans = Spans::kRandom;
  Own own = Own::kTrailing;
  BiasKind bias = {};
  Layout layout = Layout::kContiguous;
  int num_heads = 2;
  int qk_dim = 16;
  int v_dim = 16;
  bool is_cut = false;  // whether the work of a row must be divided among threads
};

// The numbers of threads begin with one thread.
struct CaseSet {
  std::vector<Case> cases;
  std::vector<int> thread_counts;
};

// Random numbers that are the same for the same seed.
class Draw {
 public:
  explicit Draw(uint64_t seed) : engine_(seed) {}

  // Both ends included; `low` where they are the wrong way round.
  int between(int low, int high) {
    return std::uniform_int_distribution<int>(low, std::max(low, high))(engine_);
  }

  bool one_in(int number) { return between(1, number) == 1; }
  float normal() { return std::normal_distribution<float>()(engine_); }

  template <class Choice>
  Choice among(std::initializer_list<Choice> choices) {
    return choices.begin()[between(0, static_cast<int>(choices.size()) - 1)];
  }

 private:
  std::mt19937_64 engine_;
};

// Rows whose queries are all their keys.
inline std::vector<Lengths> self(const std::vector<int>& lengths) {
  std::vector<Lengths> rows;
  for (int length : lengths) rows.push_back({length, length});
  return rows;
}

// Short rows, and among them one that is a hundred times longer than most.
inline std::vector<Lengths> one_long_row(int num_short_rows, Lengths long_row) {
  std::vector<Lengths> rows(num_short_rows, {3, 3});
  rows.insert(rows.begin() + num_short_rows / 2, long_row);
  return rows;
}

inline CaseSet quick_set() {
  const std::vector<Lengths> awkward = self({0, 1, 63, 7, 8, 9, 0, 64, 16, 17, 2, 65, 0});
  const std::vector<Lengths> fewer = {{0, 0}, {1, 1},   {3, 63}, {7, 7},  {1, 8},
                                      {0, 9}, {64, 64}, {5, 16}, {2, 70}, {66, 130}};
  const std::vector<Lengths> more = {{70, 3}, {3, 0}, {0, 5}, {9, 1}, {1, 40}};
  const std::vector<Lengths> few = self({20, 1, 35});
  const BiasKind all{.slopes = true, .position_table = true, .time_table = true};
  const BiasKind all_given{.slopes = true,
                           .position_table = true,
                           .time_table = true,
                           .is_shared = true,
                           .is_given = true};
  std::vector<Case> cases = {
      {.name = "causal", .rows = awkward, .spans = Spans::kCausal},
      {.name = "window", .rows = awkward, .spans = Spans::kWindow},
      {.name = "random_spans", .rows = awkward},
      {.name = "fewer_queries", .rows = fewer},
      {.name = "fewer_queries_causal", .rows = fewer, .spans = Spans::kCausal},
      {.name = "own_given", .rows = fewer, .own = Own::kGiven},
      {.name = "own_none", .rows = fewer, .own = Own::kNone},
      {.name = "more_queries", .rows = more, .own = Own::kGiven},
      {.name = "candidates", .rows = self({40, 150}), .spans = Spans::kCandidates},
      {.name = "candidates_alone", .rows = {{30, 200}, {4, 64}}, .spans = Spans::kCandidates},
      {.name = "long_row",
       .rows = one_long_row(30, {300, 300}),
       .spans = Spans::kCausal,
       .is_cut = true},
      {.name = "long_row_bias",
       .rows = one_long_row(30, {200, 300}),
       .bias = all,
       .layout = Layout::kGaps,
       .qk_dim = 25,
       .v_dim = 7,
       .is_cut = true},
      {.name = "bias_defaults", .rows = fewer, .bias = all},
      {.name = "bias_defaults_own", .rows = self({9, 70}), .own = Own::kGiven, .bias = all},
      {.name = "bias_given", .rows = fewer, .own = Own::kGiven, .bias = all_given},
      {.name = "bias_given_no_own", .rows = more, .own = Own::kNone, .bias = all_given},
      {.name = "bias_slopes", .rows = few, .bias = {.slopes = true, .is_given = true}},
      {.name = "bias_positions", .rows = few, .bias = {.position_table = true, .is_shared = true}},
      {.name = "bias_times", .rows = few, .bias = {.time_table = true, .is_given = true}},
      {.name = "gaps", .rows = few, .bias = all, .layout = Layout::kGaps, .qk_dim = 9},
      {.name = "heads_first", .rows = few, .layout = Layout::kHeadsFirst, .v_dim = 5},
      {.name = "one_head", .rows = fewer, .num_heads = 1},
      {.name = "five_heads", .rows = few, .bias = all, .num_heads = 5},
      {.name = "no_tokens", .rows = {{0, 0}, {0, 0}}, .bias = all},
      {.name = "no_queries", .rows = {{0, 3}, {0, 0}, {0, 70}}, .bias = all},
      {.name = "no_keys", .rows = {{3, 0}, {0, 0}, {65, 0}}, .own = Own::kNone},
      {.name = "one_token", .rows = {{1, 1}}, .bias = all},
  };
  for (const auto& [qk_dim, v_dim] : std::initializer_list<std::pair<int, int>>{
           {1, 1}, {8, 8}, {25, 25}, {50, 50}, {64, 64}, {256, 256}, {1, 64}, {256, 25}}) {
    cases.push_back({.name = "width_" + std::to_string(qk_dim) + "_" + std::to_string(v_dim),
                     .rows = few,
                     .qk_dim = qk_dim,
                     .v_dim = v_dim});
  }
  return {cases, {1, 3}};
}

// A case in which everything is drawn.
inline Case random_case(int number) {
  Draw draw(number);
  Case c{.name = "random_" + std::to_string(number), .rows = {}};
  const int longest = draw.among({3, 20, 70, 200});
  c.own = draw.among({Own::kTrailing, Own::kGiven, Own::kNone});
  c.bias = {.slopes = draw.one_in(2),
            .position_table = draw.one_in(2),
            .time_table = draw.one_in(2),
            .is_shared = draw.one_in(2),
            .is_given = c.own == Own::kNone || draw.one_in(2)};
  for (int row = draw.between(1, 12); row > 0; --row) {
    const int num_keys = draw.one_in(4) ? 0 : draw.between(1, longest);
    const bool any_number = c.own != Own::kTrailing && (num_keys > 0 || c.bias.is_given);
    c.rows.push_back({draw.between(0, any_number ? longest : num_keys), num_keys});
  }
  c.spans = draw.among({Spans::kRandom, Spans::kCausal, Spans::kWindow, Spans::kCandidates});
  c.layout = draw.among({Layout::kContiguous, Layout::kGaps, Layout::kHeadsFirst});
  c.num_heads = draw.between(1, 4);
  c.qk_dim = draw.among({1, 8, 25, 31, 32, 33, 50, 64, 100});
  c.v_dim = draw.among({1, 8, 25, 31, 32, 33, 50, 64, 100});
  return c;
}

// The quick cases and others that take long.
inline CaseSet long_set() {
  const BiasKind all{.slopes = true, .position_table = true, .time_table = true};
  std::vector<Lengths> tiny(10000);
  Draw draw(0);
  for (Lengths& row : tiny) {
    row.num_keys = draw.between(0, 4);
    row.num_queries = draw.between(0, row.num_keys);
  }
  std::vector<Case> cases = quick_set().cases;
  cases.push_back({.name = "tiny_rows", .rows = tiny, .bias = all, .qk_dim = 4, .v_dim = 4});
  cases.push_back(
      {.name = "longer_rows", .rows = self({600, 30, 400}), .bias = all, .qk_dim = 8, .v_dim = 8});
  cases.push_back({.name = "longest_row",
                   .rows = one_long_row(100, {1200, 1200}),
                   .spans = Spans::kCandidates,
                   .num_heads = 1,
                   .qk_dim = 8,
                   .v_dim = 8,
                   .is_cut = true});
  for (const int qk_dim : {1, 25, 50, 256}) {
    for (const int v_dim : {1, 25, 50, 256}) {
      cases.push_back(
          {.name = "width_" + std::to_string(qk_dim) + "_" + std::to_string(v_dim) + "_bias",
           .rows = {{65, 65}, {3, 80}},
           .bias = all,
           .layout = Layout::kGaps,
           .qk_dim = qk_dim,
           .v_dim = v_dim});
    }
  }
  for (int number = 0; number < 50; ++number) cases.push_back(random_case(number));
  return {cases, {1, 2, 3, 5}};
}

}  // namespace torchrec_gr
