// Signatures. The arithmetic of ed25519 is libsodium's, found when it is asked for: a build without it still opens
// models.
#include <dlfcn.h>

#include "_core/guard.h"
#include "open_model.h"

namespace rta {

std::string signed_message(const Digest& digest) {
  std::string message = "rtaccel model, format 1\n";
  message.append(reinterpret_cast<const char*>(digest.bytes), sizeof digest.bytes);
  return message;
}

}  // namespace rta

extern "C" __attribute__((visibility("default"))) int rta_model_verify(const char* path, const unsigned char key[32]) {
  using Verify = int (*)(const unsigned char*, const unsigned char*, unsigned long long, const unsigned char*);
  static const Verify verify = [] {
    for (const char* name : {"libsodium.so.26", "libsodium.so.23", "libsodium.so"})
      if (void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL)) {
        using Init = int (*)();
        const auto init = reinterpret_cast<Init>(dlsym(library, "sodium_init"));
        const auto found = reinterpret_cast<Verify>(dlsym(library, "crypto_sign_verify_detached"));
        if (init && found && init() >= 0) return found;
      }
    return Verify{nullptr};
  }();
  if (!verify) {
    rta::last_error() = "libsodium is not installed; rta_model_verify_with takes a function of your own";
    return -1;
  }
  return rta_model_verify_with(path, key, verify);
}
