#include "checks.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>

#include "offsets.h"

namespace torchrec_gr {
namespace {

constexpr int64_t kMaxWidth = 256;
constexpr int64_t kMaxSize = std::numeric_limits<int32_t>::max();

std::string described(const at::Tensor& x) {
  return c10::str(x.sizes(), " ", c10::getDtypeNames(x.scalar_type()).first);
}

void check_device(const char* name, const at::Tensor& x, const at::Tensor& q) {
  TORCH_CHECK_VALUE(x.device() == q.device(), name, ": expected the device of q, ", q.device(),
                    "; got ", x.device());
}

// ---- Shapes, dtypes and devices ----

void check_value(const char* name, const at::Tensor& x, const at::Tensor& q) {
  TORCH_CHECK_VALUE(x.dim() == 3, name, ": expected 3 axes [tokens, heads, width], got ",
                    described(x));
  TORCH_CHECK_VALUE(x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16, name,
                    ": expected float32 or bfloat16, got ", described(x));
  TORCH_CHECK_VALUE(x.scalar_type() == q.scalar_type(), name, ": expected the dtype of q, ",
                    c10::getDtypeNames(q.scalar_type()).first, "; got ", described(x));
  check_device(name, x, q);
  TORCH_CHECK_VALUE(x.size(0) <= kMaxSize, name, ": expected at most ", kMaxSize, " tokens, got ",
                    described(x));
  TORCH_CHECK_VALUE(1 <= x.size(1) && x.size(1) <= kMaxSize, name,
                    ": expected 1 head or more, got ", described(x));
  TORCH_CHECK_VALUE(1 <= x.size(2) && x.size(2) <= kMaxWidth, name, ": expected a width from 1 to ",
                    kMaxWidth, ", got ", described(x));
}

void check_values(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  check_value("q", q, q);
  check_value("k", k, q);
  check_value("v", v, q);
  TORCH_CHECK_VALUE(k.size(1) == q.size(1) && k.size(2) == q.size(2),
                    "k: expected heads and width of q, [Tk, ", q.size(1), ", ", q.size(2),
                    "]; got ", described(k));
  TORCH_CHECK_VALUE(v.size(0) == k.size(0) && v.size(1) == k.size(1),
                    "v: expected tokens and heads of k, [", k.size(0), ", ", k.size(1),
                    ", V]; got ", described(v));
}

bool is_int32_or_int64(const at::Tensor& x) {
  return x.scalar_type() == at::kInt || x.scalar_type() == at::kLong;
}

void check_offsets_shape(const char* name, const at::Tensor& offsets, const at::Tensor& q) {
  TORCH_CHECK_VALUE(offsets.dim() == 1 && offsets.numel() >= 2 && is_int32_or_int64(offsets), name,
                    ": expected [B + 1] int32 or int64 with B >= 1, got ", described(offsets));
  check_device(name, offsets, q);
}

void check_span(const char* name, const at::Tensor& x, const at::Tensor& q) {
  TORCH_CHECK_VALUE(x.dim() == 1 && x.numel() == q.size(0) && x.scalar_type() == at::kInt, name,
                    ": expected one a query, [", q.size(0), "] int32; got ", described(x));
  check_device(name, x, q);
}

void check_slopes(const OptionalTensor& slopes, const at::Tensor& q) {
  if (!slopes) return;
  TORCH_CHECK_VALUE(slopes->dim() == 1 && slopes->size(0) == q.size(1) &&
                        at::isFloatingType(slopes->scalar_type()),
                    "bias.slopes: expected floats, one a head, [", q.size(1), "]; got ",
                    described(*slopes));
  check_device("bias.slopes", *slopes, q);
}

void check_table(const char* name, const OptionalTensor& table, const char* width_name,
                 std::optional<int64_t> width, const at::Tensor& q) {
  if (!table) return;
  const bool fits =
      table->dim() == 2 && (table->size(0) == 1 || table->size(0) == q.size(1)) &&
      (width ? table->size(1) == *width : 1 <= table->size(1) && table->size(1) <= kMaxSize) &&
      at::isFloatingType(table->scalar_type());
  TORCH_CHECK_VALUE(fits, name, ": expected floats [", q.size(1), " or 1, ", width_name,
                    width ? c10::str(" = ", *width) : "", "]; got ", described(*table));
  check_device(name, *table, q);
}

void check_places(const char* name, const OptionalTensor& x, const at::Tensor& tokens) {
  if (!x) return;
  TORCH_CHECK_VALUE(x->dim() == 1 && x->numel() == tokens.size(0) && is_int32_or_int64(*x), name,
                    ": expected one a token, [", tokens.size(0), "] int32 or int64; got ",
                    described(*x));
  check_device(name, *x, tokens);
}

void check_metadata(const AttentionArguments& given) {
  const int64_t max_seq_len = given.max_seq_len;
  TORCH_CHECK_VALUE(1 <= max_seq_len && max_seq_len <= kPositionBound,
                    "max_seq_len: expected from 1 to ", kPositionBound, ", got ", max_seq_len);
  check_values(given.q, given.k, given.v);
  check_offsets_shape("q_offsets", given.q_offsets, given.q);
  check_offsets_shape("k_offsets", given.k_offsets, given.q);
  TORCH_CHECK_VALUE(given.q_offsets.numel() == given.k_offsets.numel(),
                    "k_offsets: expected as many rows as q_offsets has, ",
                    given.q_offsets.numel() - 1, "; got ", given.k_offsets.numel() - 1);
  check_span("spans.start", given.start, given.q);
  check_span("spans.end", given.end, given.q);
  if (given.own) check_span("spans.own", *given.own, given.q);
  check_slopes(given.slopes, given.q);
  check_table("bias.position_table", given.position_table, "2 * max_seq_len - 1",
              2 * max_seq_len - 1, given.q);
  check_table("bias.time_table", given.time_table, "buckets", std::nullopt, given.q);
  check_places("bias.q_positions", given.q_positions, given.q);
  check_places("bias.k_positions", given.k_positions, given.k);
  check_places("bias.q_times", given.q_times, given.q);
  check_places("bias.k_times", given.k_times, given.k);
  TORCH_CHECK_VALUE(!given.time_table || given.k_times,
                    "bias.k_times: expected the time of every key, which a time table reads; got "
                    "none");
}

// ---- Data, on the CPU, of arguments in kernel form ----

// The least and the greatest of some integers; none at first.
struct Range {
  int64_t least = std::numeric_limits<int64_t>::max();
  int64_t greatest = std::numeric_limits<int64_t>::min();

  void add(int64_t value) {
    least = std::min(least, value);
    greatest = std::max(greatest, value);
  }
};

Range range_of(const at::Tensor& positions) {
  Range range;
  const int32_t* data = positions.const_data_ptr<int32_t>();
  for (int64_t i = 0; i < positions.numel(); ++i) range.add(data[i]);
  return range;
}

// The places of the keys in their rows.
Range places_of_keys(const at::Tensor& k_offsets) {
  const int64_t* data = k_offsets.const_data_ptr<int64_t>();
  Range places;
  for (int64_t row = 0; row + 1 < k_offsets.numel(); ++row) {
    const int64_t num_keys = data[row + 1] - data[row];
    if (num_keys > 0) {
      places.add(0);
      places.add(num_keys - 1);
    }
  }
  return places;
}

// Returns the range of the queries' own places.
Range check_own(const AttentionArguments& arguments) {
  const int64_t* q_offsets = arguments.q_offsets.const_data_ptr<int64_t>();
  const int64_t* k_offsets = arguments.k_offsets.const_data_ptr<int64_t>();
  const int32_t* own = arguments.own ? arguments.own->const_data_ptr<int32_t>() : nullptr;
  Range places;
  for (int64_t row = 0; row + 1 < arguments.q_offsets.numel(); ++row) {
    const int64_t num_queries = q_offsets[row + 1] - q_offsets[row];
    const int64_t num_keys = k_offsets[row + 1] - k_offsets[row];
    if (own == nullptr && num_queries > 0) {
      TORCH_CHECK_VALUE(num_queries <= num_keys,
                        "spans.own: expected to be given where a row has more queries than keys, "
                        "got none and ",
                        num_queries, " queries to ", num_keys, " keys in row ", row);
      places.add(num_keys - num_queries);
      places.add(num_keys - 1);
    } else if (own != nullptr) {
      for (int64_t query = q_offsets[row]; query < q_offsets[row + 1]; ++query) {
        TORCH_CHECK_VALUE(-1 <= own[query] && own[query] < num_keys,
                          "spans.own: expected -1 (none) or a place among the ", num_keys,
                          " keys of row ", row, ", got ", own[query], " of query ", query);
        places.add(own[query]);
      }
    }
  }
  return places;
}

void check_position_range(const char* name, const Range& range,
                          const AttentionArguments& arguments) {
  const bool has_table = arguments.position_table.has_value();
  const int64_t least = has_table ? 0 : -kPositionBound;
  const int64_t greatest = has_table ? arguments.max_seq_len - 1 : kPositionBound - 1;
  TORCH_CHECK_VALUE(least <= range.least && range.greatest <= greatest, name,
                    ": expected positions in [", least, ", ", greatest, "]",
                    has_table ? ", the table's" : "", "; got ", range.least, " to ",
                    range.greatest);
}

void check_data(const AttentionArguments& arguments) {
  check_offsets("q_offsets", arguments.q_offsets, "q", arguments.q.size(0));
  check_offsets("k_offsets", arguments.k_offsets, "k", arguments.k.size(0));
  const Range own = check_own(arguments);
  const bool some_have_none = own.least < 0;
  TORCH_CHECK_VALUE(!arguments.time_table || arguments.q_times || !some_have_none,
                    "bias.q_times: expected where a query has no key of its own (own = -1), got "
                    "none");
  if (!arguments.slopes && !arguments.position_table) return;
  TORCH_CHECK_VALUE(arguments.q_positions || !some_have_none,
                    "bias.q_positions: expected where a query has no key of its own (own = -1), "
                    "got none");
  check_position_range("bias.q_positions",
                       arguments.q_positions ? range_of(*arguments.q_positions) : own, arguments);
  check_position_range("bias.k_positions",
                       arguments.k_positions ? range_of(*arguments.k_positions)
                                             : places_of_keys(arguments.k_offsets),
                       arguments);
}

}  // namespace

AttentionArguments checked(const AttentionArguments& given) {
  check_metadata(given);
  AttentionArguments arguments = in_kernel_form(given);
  if (arguments.q.is_cpu()) check_data(arguments);
  return arguments;
}

at::Tensor checked_output(const char* name, const at::Tensor& x,
                          const AttentionArguments& arguments) {
  const at::Tensor& q = arguments.q;
  const int64_t v_dim = arguments.v.size(2);
  TORCH_CHECK_VALUE(x.dim() == 3 && x.size(0) == q.size(0) && x.size(1) == q.size(1) &&
                        x.size(2) == v_dim && x.scalar_type() == q.scalar_type(),
                    name, ": expected [", q.size(0), ", ", q.size(1), ", ", v_dim,
                    "] in the dtype of q, got ", described(x));
  check_device(name, x, q);
  return with_whole_vectors(x);
}

at::Tensor checked_log_sum_exp(const at::Tensor& x, const AttentionArguments& arguments) {
  const at::Tensor& q = arguments.q;
  TORCH_CHECK_VALUE(x.dim() == 2 && x.size(0) == q.size(0) && x.size(1) == q.size(1) &&
                        x.scalar_type() == at::kFloat,
                    "log_sum_exp: expected [", q.size(0), ", ", q.size(1), "] float32, got ",
                    described(x));
  check_device("log_sum_exp", x, q);
  return x.contiguous();
}

}  // namespace torchrec_gr
