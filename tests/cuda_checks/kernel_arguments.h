// Arguments of a kernel as a test passes them, one address each: of memory, or of a number.
#pragma once

#include <cstdlib>
#include <memory>
#include <vector>

template <class T>
static T pointer(const void* const* arguments, int index) {
  return static_cast<T>(const_cast<void*>(arguments[index]));
}

template <class T>
static T value(const void* const* arguments, int index) {
  return *static_cast<const T*>(arguments[index]);
}

// Memory of each pointer by itself, for a sanitizer, and numbers behind them. given: a program's words, of which the
// first is the place of a buffer that is 16 bytes too short. words: whether a place holds words that begin as zeros;
// all others hold bytes that are small numbers, as floats too.
struct Buffers {
  std::vector<std::unique_ptr<char[]>> memory;
  std::vector<const void*> arguments;

  template <size_t places, class Words>
  Buffers(const int (&bytes)[places], int count, char** given, const Words& words) {
    for (size_t i = 0; i < places; ++i) {
      const int size = bytes[i] - (count > 1 && std::atoi(given[1]) == static_cast<int>(i) ? 16 : 0);
      memory.emplace_back(new char[size]);
      for (int at = 0; at < size; ++at) memory[i][at] = static_cast<char>(words(i) ? 0 : at % 4 == 3 ? 0x3c : at * 37);
      arguments.push_back(memory[i].get());
    }
  }
};
