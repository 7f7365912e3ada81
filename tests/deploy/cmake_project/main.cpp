// user MODEL OTHER: what the C++ wrapper does, told in lines that the test reads.
#include <cstdio>
#include <utility>
#include <vector>

#include "rtaccel.hpp"

static void print(const std::vector<float>& y) {
  for (float v : y) std::printf("%a ", v);
  std::printf("\n");
}

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  rtaccel::Model first(argv[1]);
  rtaccel::Model model = std::move(first);
  model.prefault();
  std::printf("%s %d %d\n", model.name().c_str(), model.inputs(), model.outputs());
  std::vector<float> x(model.input(0).sample_elements), y(model.output(0).sample_elements);
  for (size_t i = 0; i < x.size(); ++i) x[i] = 0.25f * static_cast<float>(i) - 1.0f;
  model.step(x, y);
  print(y);
  model.swap(argv[2]);
  model.step(x, y);
  print(y);
  model.rollback();
  model.step(x, y);
  print(y);
  try {
    y.pop_back();
    model.step(x, y);
    return 3;
  } catch (const rtaccel::Error& error) {
    std::printf("%d %s\n", error.code(), error.what());
  }
  try {
    rtaccel::Model missing("no/such/file.rta");
    return 4;
  } catch (const rtaccel::Error& error) {
    std::printf("%d %s\n", error.code(), error.what());
  }
  return 0;
}
