// A map from ids to slots beside a plain model of it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "cpu/embedding/id_map.h"
#include "cpu/embedding/id_map_regions.h"
#include "embedding_batch.h"

namespace torchrec_gr::embedding {

// A map with its chunks, one a table, and the model of it.
class MapTrial {
 public:
  MapTrial(int64_t num_tables, int64_t rows_a_table, ParallelFor parallel_for)
      : entries_(kMinCapacity), parallel_for_(std::move(parallel_for)) {
    for (int64_t table = 0; table < num_tables; ++table) {
      ids_.emplace_back(rows_a_table);
      chunks_.list.push_back(
          {nullptr, static_cast<int32_t>(rows_a_table), static_cast<int>(table)});
      free_.emplace_back();
      for (int64_t row = rows_a_table; row-- > 0;) free_.back().push_back(slot_of(table, row));
    }
    for (int64_t table = 0; table < num_tables; ++table) {
      chunks_.list[table].data = ids_[table].data();
    }
  }

  // Those of a batch that are absent, as far as there are rows.
  void insert(const Batch& batch) {
    Batch absent;
    std::vector<int64_t> slots;
    for (int64_t table = 0; table < std::ssize(free_); ++table) {
      for (int64_t i = batch.offsets[table]; i < batch.offsets[table + 1]; ++i) {
        if (free_[table].empty() || model_.contains({table, batch.ids[i]})) continue;
        slots.push_back(free_[table].back());
        free_[table].pop_back();
        model_[{table, batch.ids[i]}] = slots.back();
        absent.ids.push_back(batch.ids[i]);
      }
      absent.offsets.push_back(std::ssize(absent.ids));
    }
    while (std::ssize(model_) > most_entries(std::ssize(entries_))) {
      std::vector<uint64_t> larger(2 * entries_.size());
      grow(entries_.data(), places(), larger.data(), Places(std::ssize(larger)), parallel_for_);
      entries_ = std::move(larger);
    }
    insert_ids(IdMap<uint64_t, int64_t>{entries_.data(), places(), chunks_}, absent.view(),
               slots.data(), parallel_for_);
  }

  void remove(const Batch& batch) {
    std::vector<int64_t> slots;
    for (int64_t i = 0; i < std::ssize(batch.ids); ++i) {
      const auto known = model_.find({batch.table_of(i), batch.ids[i]});
      if (known == model_.end()) continue;
      slots.push_back(known->second);
      free_[chunk_of(known->second)].push_back(known->second);
      model_.erase(known);
    }
    const IdMap<uint64_t, int64_t> map{entries_.data(), places(), chunks_};
    check(remove_slots(map, slots.data(), std::ssize(slots)) == std::ssize(slots),
          "a row to remove is not found");
  }

  void check_batch(const Batch& batch) const {
    const IdMap<const uint64_t, int64_t> map{entries_.data(), places(), chunks_};
    std::vector<int64_t> found(batch.ids.size());
    find_ids(map, batch.view(), found.data(), parallel_for_);
    for (int64_t i = 0; i < std::ssize(batch.ids); ++i) {
      const auto known = model_.find({batch.table_of(i), batch.ids[i]});
      check(found[i] == (known == model_.end() ? kNoSlot : known->second), "an id's slot is wrong");
    }
  }

  void check_all() const {
    Batch all;
    int64_t table = 0;
    for (const auto& [key, slot] : model_) {  // by table
      for (; table < key.first; ++table) all.offsets.push_back(std::ssize(all.ids));
      all.ids.push_back(key.second);
    }
    all.offsets.push_back(std::ssize(all.ids));
    check_batch(all);
    check(count_entries(entries_.data(), std::ssize(entries_)) == std::ssize(model_),
          "there are too many entries or too few");
  }

  const std::vector<uint64_t>& entries() const { return entries_; }

 private:
  Places places() const { return Places(std::ssize(entries_)); }

  std::vector<uint64_t> entries_;
  std::vector<std::vector<int64_t>> ids_;
  Chunks<int64_t> chunks_;
  std::vector<std::vector<int64_t>> free_;
  std::map<Key, int64_t> model_;
  ParallelFor parallel_for_;
};

}  // namespace torchrec_gr::embedding
