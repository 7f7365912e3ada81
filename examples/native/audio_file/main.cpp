// A model inside an audio callback: blocks of a fixed size go through a streamed model, as JACK or a plug-in host hands
// them over. The host here is a file of raw float32 samples; `process` is what a real one calls, and it allocates
// nothing.
//
//   audio_file MODEL IN.f32 OUT.f32
#include <cstdio>
#include <fstream>
#include <iostream>
#include <vector>

#include "rtaccel.hpp"

class Effect {
 public:
  explicit Effect(const char* path) : model_(path) {
    if (model_.inputs() != 1 || model_.outputs() != 1)
      throw rtaccel::Error(RTA_BAD_ARGUMENT, "an effect has one input and one output");
    frames_ = static_cast<std::size_t>(model_.input(0).sample_elements);
    results_ = static_cast<std::size_t>(model_.output(0).sample_elements);
    model_.prefault();
  }
  std::size_t frames() const { return frames_; }
  std::size_t results() const { return results_; }

  // The callback. A block goes in and a block comes out; what the model remembers stays in it.
  int process(const float* in, float* out) noexcept {
    const void* inputs[] = {in};
    void* outputs[] = {out};
    return rta_model_step(model_.get(), inputs, outputs, 1);
  }

 private:
  rtaccel::Model model_;
  std::size_t frames_, results_;
};

int main(int argc, char** argv) try {
  if (argc != 4) {
    std::cerr << "audio_file MODEL IN.f32 OUT.f32\n";
    return 2;
  }
  Effect effect(argv[1]);
  std::ifstream in(argv[2], std::ios::binary);
  std::ofstream out(argv[3], std::ios::binary);
  if (!in || !out) {
    std::cerr << "cannot open " << (in ? argv[3] : argv[2]) << "\n";
    return 2;
  }
  std::vector<float> block(effect.frames()), result(effect.results());
  long blocks = 0;
  while (in.read(reinterpret_cast<char*>(block.data()), static_cast<std::streamsize>(block.size() * sizeof(float)))) {
    if (effect.process(block.data(), result.data()) != 0) {
      std::cerr << rta_error() << "\n";
      return 2;
    }
    out.write(reinterpret_cast<const char*>(result.data()),
              static_cast<std::streamsize>(result.size() * sizeof(float)));
    ++blocks;
  }
  std::printf("%ld blocks of %zu samples\n", blocks, effect.frames());
  return 0;
} catch (const rtaccel::Error& error) {
  std::cerr << error.what() << "\n";
  return 2;
}
