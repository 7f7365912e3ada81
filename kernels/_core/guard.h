// Failures while a plan is built: raised by fail() (stage.h), and ended by attempt(), after which last_error() says
// why.
//
// They are exceptions. In a library that `rtaccel pack` makes they are jumps, so that a program in C needs no run-time
// library of C++: nothing is destroyed on the way, which is as good, because all memory of such a model is one region
// (memory.h) that is given back as a whole. No file may be open, and no lock held, where something can fail.
#pragma once

#include <cstring>

#ifdef RTA_PACKED
#include <csetjmp>

#include "_core/memory.h"
#else
#include <exception>
#endif

namespace rta {

// The last failure of a thread. No std::string: nothing has to be destroyed when the thread ends.
class ErrorText {
 public:
  ErrorText& operator=(const char* text) {
    size_t length = std::strlen(text);
    if (length > sizeof text_ - 1) length = sizeof text_ - 1;
    std::memmove(text_, text, length);
    text_[length] = 0;
    return *this;
  }
  const char* c_str() const { return text_; }

 private:
  char text_[512];
};
ErrorText& last_error();

// Whether f() came to its end; else last_error() says why not.
#ifdef RTA_PACKED
struct Landing {
  std::jmp_buf place;
  Landing* outer;
};
extern constinit thread_local Landing* landing;  // of the innermost attempt

template <class F>
__attribute__((noinline)) bool attempt(F f) {
  Landing here;
  here.outer = landing;
  landing = &here;
  const Within same(region_in_use());  // a jump leaves the scopes of others without their end
  volatile bool done = false;
  if (setjmp(here.place) == 0) {
    f();
    done = true;
  }
  landing = here.outer;
  return done;
}
#else
template <class F>
bool attempt(F f) {
  try {
    f();
    return true;
  } catch (const std::exception& error) {
    last_error() = error.what();
  } catch (...) {
    last_error() = "unknown error in the native core";
  }
  return false;
}
#endif

// What f() gives, or `failure`. Failures end here, before the C ABI.
template <class F, class T>
T guarded(T failure, F f) {
  T result = failure;
  return attempt([&result, &f] { result = f(); }) ? result : failure;
}

}  // namespace rta
