// Exceptions end at the C ABI: they become the value for failure, and a text for rta_error().
#pragma once

#include <exception>
#include <string>

namespace rta {

std::string& last_error();  // of this thread

template <class F, class T>
T guarded(T failure, F f) {
  try {
    return f();
  } catch (const std::exception& error) {
    last_error() = error.what();
  } catch (...) {
    last_error() = "unknown error in the native core";
  }
  return failure;
}

}  // namespace rta
