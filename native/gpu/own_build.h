// Code for cards from a build of one's own, in the place of what a file has: cmake/cuda.cmake makes it.
#pragma once

#include <memory>
#include <string>

#include "model/artifact.h"
#include "section.h"

namespace rta::gpu {

// A launch with the code that it is loaded with.
class OwnBuild {
 public:
  // The folder that holds it, for the whole process; nullptr: there is none. Refuses what is no folder.
  static void is_in(const char* folder);

  // Reads the code of a launch, where there is such a folder. Refuses what is no fatbin.
  explicit OwnBuild(const Stored& of);
  const std::string& missing() const { return missing_; }  // what is not there; empty where nothing is
  const Stored& launch() const { return launch_; }         // as long as this is there

 private:
  Stored launch_;
  std::unique_ptr<Bytes> code_;
  std::string missing_;
};

}  // namespace rta::gpu
