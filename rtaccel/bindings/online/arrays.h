// Arrays as the online objects take them: contiguous memory of the CPU, through DLPack or the buffer protocol, so that
// NumPy's arrays and torch's tensors come without a copy.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <string>

namespace rta_online {

template <class T>
using In = nanobind::ndarray<const T, nanobind::c_contig, nanobind::device::cpu>;
template <class T>
using Out = nanobind::ndarray<T, nanobind::c_contig, nanobind::device::cpu>;

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
