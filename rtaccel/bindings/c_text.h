// A text of Python's as C takes it: one with a zero character inside would end there, and be another text.
#pragma once

#include <nanobind/nanobind.h>

#include <string>

namespace rta_torch {

inline const char* c_text(const std::string& text) {
  if (text.find('\0') != std::string::npos) throw nanobind::value_error("a text with a zero character");
  return text.c_str();
}

}  // namespace rta_torch
