// The map from ids to slots: see embedding/id_map.h.
#include "embedding/id_map.h"

#include <ATen/ATen.h>
#include <sys/mman.h>
#include <torch/library.h>

#include <atomic>
#include <cstdint>
#include <limits>

#include "embedding/id_map_regions.h"
#include "embedding_arguments.h"

namespace torchrec_gr::embedding {
namespace {

constexpr int64_t kMostTables = std::numeric_limits<int32_t>::max();
constexpr int64_t kCountGrain = int64_t{1} << 20;  // places

template <typename T>
Chunks<T> check_id_chunks(at::TensorList chunk_ids, at::IntArrayRef chunk_tables) {
  Chunks<T> chunks = check_chunks<T>("chunk_ids", chunk_ids);
  TORCH_CHECK_VALUE(chunk_tables.size() == chunk_ids.size(), "chunk_tables: expected one a chunk, ",
                    chunk_ids.size(), "; got ", chunk_tables.size());
  for (size_t i = 0; i < chunk_tables.size(); ++i) {
    TORCH_CHECK_VALUE(0 <= chunk_tables[i] && chunk_tables[i] <= kMostTables,
                      "chunk_tables: expected numbers from 0 to ", kMostTables, ", got ",
                      chunk_tables[i], " of chunk ", i);
    chunks.list[i].table = static_cast<int32_t>(chunk_tables[i]);
  }
  return chunks;
}

uint64_t* data_of_entries(const at::Tensor& entries) {
  return reinterpret_cast<uint64_t*>(entries.data_ptr<int64_t>());
}

const uint64_t* const_data_of_entries(const at::Tensor& entries) {
  return reinterpret_cast<const uint64_t*>(entries.const_data_ptr<int64_t>());
}

at::Tensor id_map_find(const at::Tensor& entries, at::TensorList chunk_ids,
                       at::IntArrayRef chunk_tables, const at::Tensor& ids,
                       const at::Tensor& offsets) {
  const Chunks<const int64_t> chunks = check_id_chunks<const int64_t>(chunk_ids, chunk_tables);
  const Places places = check_entries(entries);
  const CheckedIds checked = check_ids(ids, offsets);
  const IdMap<const uint64_t, const int64_t> map{const_data_of_entries(entries), places, chunks};
  at::Tensor slots = at::empty_like(checked.ids);
  find_ids(map, checked.view(), slots.mutable_data_ptr<int64_t>(), parallel_for);
  return slots;
}

// Counts the entries only where there may be too many: each is of a row.
void check_load(const IdMap<uint64_t, int64_t>& map, int64_t num_new) {
  const int64_t most = most_entries(map.places.count());
  int64_t num_rows = 0;
  for (const auto& chunk : map.chunks.list) num_rows += chunk.num_rows;
  if (num_rows <= most) return;
  std::atomic<int64_t> num_entries = 0;
  parallel_for(map.places.count(), kCountGrain, [&](int64_t begin, int64_t end) {
    num_entries += count_entries(map.entries + begin, end - begin);
  });
  TORCH_CHECK_VALUE(num_entries + num_new <= most, "entries: expected at most ", most, " of ",
                    map.places.count(), " in use after the insertion, got ", num_entries.load(),
                    " and ", num_new, " new ids: grow the map first");
}

void id_map_insert_(const at::Tensor& entries, at::TensorList chunk_ids,
                    at::IntArrayRef chunk_tables, const at::Tensor& ids, const at::Tensor& offsets,
                    const at::Tensor& slots) {
  const Chunks<int64_t> chunks = check_id_chunks<int64_t>(chunk_ids, chunk_tables);
  const Places places = check_entries(entries);
  const CheckedIds checked = check_ids(ids, offsets);
  const TableIds table_ids = checked.view();
  const at::Tensor checked_slots = check_vector<int64_t>("slots", slots, table_ids.count());
  const auto* rows = checked_slots.const_data_ptr<int64_t>();
  check_slots("slots", rows, table_ids.count(), chunks, /*may_be_none=*/false);
  table_ids.for_each_table(0, table_ids.count(), [&](int64_t table, int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      TORCH_CHECK_VALUE(chunks.table(rows[i]) == table, "slots: expected a row of table ", table,
                        ", the table of id ", table_ids.data[i], ", got ", rows[i],
                        " of a chunk of table ", chunks.table(rows[i]), " at ", i);
    }
  });
  const IdMap<uint64_t, int64_t> map{data_of_entries(entries), places, chunks};
  check_load(map, table_ids.count());
  insert_ids(map, table_ids, rows, parallel_for);
}

void id_map_remove_(const at::Tensor& entries, at::TensorList chunk_ids,
                    at::IntArrayRef chunk_tables, const at::Tensor& slots) {
  const Chunks<const int64_t> chunks = check_id_chunks<const int64_t>(chunk_ids, chunk_tables);
  const Places places = check_entries(entries);
  const at::Tensor checked_slots = check_vector<int64_t>("slots", slots);
  const auto* rows = checked_slots.const_data_ptr<int64_t>();
  const int64_t num_slots = checked_slots.numel();
  check_slots("slots", rows, num_slots, chunks, /*may_be_none=*/false);
  const IdMap<uint64_t, const int64_t> map{data_of_entries(entries), places, chunks};
  const int64_t num_removed = remove_slots(map, rows, num_slots);
  TORCH_CHECK_VALUE(num_removed == num_slots, "slots: expected rows that the map has, got ",
                    rows[num_removed], " at ", num_removed,
                    "; the slots before it have been removed");
}

// On large pages where the system has them: entries are read here and there.
at::Tensor zero_entries(int64_t capacity, const at::TensorOptions& options) {
  at::Tensor entries = at::empty({capacity}, options);
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t kPage = 4096;
  const auto begin = reinterpret_cast<uintptr_t>(entries.data_ptr());
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage;
  const uintptr_t last = (begin + entries.nbytes()) / kPage * kPage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
  return entries.zero_();
}

at::Tensor id_map_grow(const at::Tensor& entries, int64_t capacity) {
  const Places places = check_entries(entries);
  TORCH_CHECK_VALUE(is_capacity(capacity) && capacity > places.count(),
                    "capacity: expected a power of two over the ", places.count(),
                    " of entries, at most ", kMaxCapacity, "; got ", capacity);
  at::Tensor larger = zero_entries(capacity, entries.options());
  grow(const_data_of_entries(entries), places, data_of_entries(larger), Places(capacity),
       parallel_for);
  return larger;
}

}  // namespace
}  // namespace torchrec_gr::embedding

TORCH_LIBRARY_IMPL(torchrec_gr, CPU, m) {
  using namespace torchrec_gr::embedding;
  m.impl("id_map_find", &id_map_find);
  m.impl("id_map_insert_", &id_map_insert_);
  m.impl("id_map_remove_", &id_map_remove_);
  m.impl("id_map_grow", &id_map_grow);
}

// Not differentiable: integers in, integers out.
TORCH_LIBRARY_IMPL(torchrec_gr, Autograd, m) {
  m.impl("id_map_find", torch::CppFunction::makeFallthrough());
  m.impl("id_map_insert_", torch::CppFunction::makeFallthrough());
  m.impl("id_map_remove_", torch::CppFunction::makeFallthrough());
  m.impl("id_map_grow", torch::CppFunction::makeFallthrough());
}
