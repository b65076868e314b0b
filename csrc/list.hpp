// List: a std::vector that belongs to one instruction set.
//
// What a file compiled once per set makes of std::vector<float*> is a weak symbol of the same name in every
// copy: the linker keeps one, maybe the AVX-512 one, and an older processor stops at it. An allocator
// declared in the set's namespace is part of the name. tests/test_symbols.py holds the kernels to it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

namespace pathtune::PATHTUNE_ISA {

constexpr std::align_val_t list_alignment{64};  // a vector of any set

template <class T>
struct Allocator {
  using value_type = T;
  Allocator() = default;
  template <class U>
  Allocator(const Allocator<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), list_alignment)); }
  void deallocate(T* p, size_t) { ::operator delete(p, list_alignment); }
  template <class U>
  bool operator==(const Allocator<U>&) const {
    return true;
  }
  template <class U>
  bool operator!=(const Allocator<U>&) const {
    return false;
  }
};

template <class T>
using List = std::vector<T, Allocator<T>>;

// Memory that nobody fills: a List would, in every call.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t n) : data_(Allocator<T>().allocate(size_t(n))) {}
  ~Buffer() { Allocator<T>().deallocate(data_, 0); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* data() const { return data_; }

 private:
  T* data_;
};

}  // namespace pathtune::PATHTUNE_ISA
