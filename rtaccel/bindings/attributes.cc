#include "bindings/attributes.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include "bindings/tensor.h"

namespace nb = nanobind;

namespace rta_torch {
namespace {

rta_attr attribute(nb::handle key, nb::handle value, std::vector<std::string>& texts) {
  rta_attr attr{};
  texts.push_back(nb::cast<std::string>(key));
  attr.name = texts.back().c_str();
  if (nb::isinstance<nb::int_>(value)) {
    attr.kind = RTA_ATTR_INT;
    attr.integer = nb::cast<int64_t>(value);
  } else if (nb::isinstance<nb::float_>(value)) {
    attr.kind = RTA_ATTR_FLOAT;
    attr.real = nb::cast<double>(value);
  } else if (nb::isinstance<nb::str>(value)) {
    attr.kind = RTA_ATTR_TEXT;
    texts.push_back(nb::cast<std::string>(value));
    attr.text = texts.back().c_str();
  } else {
    const auto [address, dtype, count] = nb::cast<std::tuple<uintptr_t, std::string, int64_t>>(value);
    attr.kind = RTA_ATTR_TENSOR;
    attr.data = reinterpret_cast<const void*>(address);
    attr.dtype = dtype_of(dtype).core;
    attr.count = count;
  }
  return attr;
}

}  // namespace

std::vector<rta_attr> attributes(nb::dict given, std::vector<std::string>& texts) {
  texts.reserve(2 * given.size());  // the attributes point into it
  std::vector<rta_attr> attrs;
  for (auto [key, value] : given) attrs.push_back(attribute(key, value, texts));
  return attrs;
}

}  // namespace rta_torch
