// rta_gpu.h where there is no model, no file and no address: each is refused with its kind, and no driver is asked.
#include "rta_gpu.h"

#include <cstring>

#include "native/harness.h"

namespace check {
namespace {

void check_none(Report& report) {
  float x[2] = {}, y[2] = {};
  const auto said = [&](const char* what, int code, const char* why = "the model is NULL") {
    report.expect(code == -1 && rta_error_code() == RTA_BAD_ARGUMENT && std::strstr(rta_error(), why),
                  "%s gives %d: %s", what, code, rta_error());
    report.expect(rta_gpu_code(nullptr) == 0 && rta_error_code() == RTA_OK, "the file's code again");
  };
  said("start", rta_gpu_start(nullptr));
  said("step", rta_gpu_step(nullptr, x, y, 1));
  said("swap", rta_gpu_swap(nullptr, "a.rta", nullptr));
  said("save_state", rta_gpu_save_state(nullptr, y));
  said("load_state", rta_gpu_load_state(nullptr, x));
  said("open", rta_gpu_open(nullptr, nullptr, 0) ? 0 : -1, "the path is NULL");
  said("from_memory", rta_gpu_from_memory(nullptr, 1, nullptr, 0) ? 0 : -1, "at no address");
  said("stored", rta_gpu_stored(nullptr, 1, nullptr, 0), "at no address");
  report.expect(rta_gpu_state_bytes(nullptr) == 0, "bytes of states");
  rta_gpu_about about = {7, 7, 7, 7, 7, "a kernel"};
  rta_gpu_describe(nullptr, &about);
  report.expect(
      !about.inputs && !about.outputs && !about.blocks && !about.capability && !about.streams && !about.kernel,
      "a description");
  rta_gpu_describe(nullptr, nullptr);
  rta_gpu_reset(nullptr);
  rta_gpu_close(nullptr);
}

}  // namespace

void check_gpu(Report& report) {
  running("gpu", "", "without a model");
  check_none(report);
  ++report.cases;
}

}  // namespace check
