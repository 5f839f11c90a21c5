// Memory that a thread uses again from row to row.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace torchrec_gr::cpu {
namespace {

// Grows and never shrinks; what was in it is lost when it grows. Begins at a cache line.
template <class Type>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t count) { with_room_for(count); }

  Type* with_room_for(size_t count) {
    if (count > size_) {
      data_.reset();
      data_.reset(static_cast<Type*>(::operator new(count * sizeof(Type), kAlignment)));
      size_ = count;
    }
    return data_.get();
  }

  Type* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};

  struct Free {
    void operator()(Type* data) const { ::operator delete(data, kAlignment); }
  };

  std::unique_ptr<Type, Free> data_;
  size_t size_ = 0;
};

}  // namespace
}  // namespace torchrec_gr::cpu
