// Signatures. The arithmetic of ed25519 is libsodium's, found when it is asked for: a build without it still opens
// models.
#include <dlfcn.h>

#include <cstring>

#include "_core/guard.h"
#include "open_model.h"

namespace rta {

SignedMessage::SignedMessage(const Digest& digest) {
  constexpr char kName[] = "rtaccel model, format 1\n";
  static_assert(sizeof kName - 1 + sizeof digest.bytes == sizeof bytes);
  std::memcpy(bytes, kName, sizeof kName - 1);
  std::memcpy(bytes + sizeof kName - 1, digest.bytes, sizeof digest.bytes);
}

Verify found_verify() {
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
  return verify;
}

}  // namespace rta

extern "C" __attribute__((visibility("default"))) int rta_model_verify(const char* path, const unsigned char key[32]) {
  const rta::Verify verify = rta::found_verify();
  if (!verify) {
    rta::last_code() = RTA_OTHER;
    rta::last_error() = "libsodium is not installed; rta_model_verify_with takes a function of your own";
    return -1;
  }
  return rta_model_verify_with(path, key, verify);
}
