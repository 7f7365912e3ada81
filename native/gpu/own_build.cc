#include "own_build.h"

#include <sys/stat.h>

#include <cstring>

namespace rta::gpu {
namespace {

constexpr uint32_t kMagic = 0xba55ed50;

struct Head {  // of a fatbin
  uint32_t magic;
  uint16_t version, head_bytes;
  uint64_t bytes;  // behind the head
};
static_assert(sizeof(Head) == 16);

std::string folder;

bool is_there(const std::string& path) {
  struct stat about;
  return stat(path.c_str(), &about) == 0;
}

// The driver is told no size, and believes the head.
bool is_whole(const Bytes& file) {
  Head head;
  if (file.size() < sizeof head) return false;
  std::memcpy(&head, file.data(), sizeof head);
  return head.magic == kMagic && head.head_bytes >= sizeof head && head.head_bytes <= file.size() &&
         head.bytes == file.size() - head.head_bytes;
}

}  // namespace

void OwnBuild::is_in(const char* path) {
  struct stat about;
  if (path && (stat(path, &about) != 0 || !S_ISDIR(about.st_mode))) refuse(RTA_CANNOT_READ, "%s is no folder", path);
  folder = path ? path : "";
}

OwnBuild::OwnBuild(const Stored& of) : launch_(of) {
  if (folder.empty()) return;
  const std::string path = folder + "/" + of.key + ".fatbin";
  if (!is_there(path)) {
    missing_ = path + " is not there, which is " + of.name;
    return;
  }
  code_ = std::make_unique<Bytes>(path.c_str());
  if (!is_whole(*code_)) refuse(RTA_BAD_FORMAT, "%s is no fatbin, or not all of one", path.c_str());
  launch_.code = code_->data();
  launch_.code_bytes = code_->size();
}

}  // namespace rta::gpu
