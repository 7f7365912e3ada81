// Arrays as the online objects take them: contiguous memory of the CPU, through DLPack or the buffer protocol, so that
// NumPy's arrays and torch's tensors come without a copy.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <string>
#include <utility>

namespace rta_online {

// An array as it is. nanobind would convert one of another dtype or in strides, which is a copy that nobody asked for,
// and what is written to such a copy is lost: here it is a TypeError.
template <class Array>
struct AsItIs : Array {
  AsItIs() = default;
  explicit AsItIs(Array array) : Array(std::move(array)) {}
};

template <class T>
using In = AsItIs<nanobind::ndarray<const T, nanobind::c_contig, nanobind::device::cpu>>;
template <class T>
using Out = AsItIs<nanobind::ndarray<T, nanobind::c_contig, nanobind::device::cpu>>;

// The numbers of an array that has so many; the Python side has checked shapes, and this that memory ends where it
// must.
template <class Array>
auto* numbers(const Array& array, int64_t count, const char* name) {
  if (static_cast<int64_t>(array.size()) != count)
    throw nanobind::value_error(
        (std::string(name) + " has " + std::to_string(array.size()) + " numbers, not " + std::to_string(count))
            .c_str());
  return array.data();
}

}  // namespace rta_online

template <class Array>
struct nanobind::detail::type_caster<rta_online::AsItIs<Array>> {
  using Plain = make_caster<Array>;
  NB_TYPE_CASTER(rta_online::AsItIs<Array>, Plain::Name)

  bool from_python(handle from, uint8_t flags, cleanup_list* cleanup) noexcept {
    Plain plain;
    if (!plain.from_python(from, flags & ~static_cast<uint8_t>(cast_flags::convert), cleanup)) return false;
    value = rta_online::AsItIs<Array>(std::move(plain.value));
    return true;
  }
};
