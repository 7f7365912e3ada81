// Arguments of a kernel as a test passes them, one address each: of memory, or of a number.
#pragma once

template <class T>
static T pointer(const void* const* arguments, int index) {
  return static_cast<T>(const_cast<void*>(arguments[index]));
}

template <class T>
static T value(const void* const* arguments, int index) {
  return *static_cast<const T*>(arguments[index]);
}
