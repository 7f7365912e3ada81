// The part of the DLPack C exchange interface (DLPack 1.2 or newer) that reads a tensor without owning it. PyTorch
// publishes a pointer to such a table as torch.Tensor.__dlpack_c_exchange_api__ from 2.10 on; it is a stable C ABI, so
// one build of this module serves every version, and reading a tensor costs some 20 ns.
// Specification: https://dmlc.github.io/dlpack/latest/c_api.html
#pragma once

#include <cstdint>

namespace dlpack {

struct Device {
  int32_t type;  // 1 is the CPU
  int32_t id;
};

struct DataType {
  uint8_t code;  // kInt, kUnsigned, kFloat, kBfloat
  uint8_t bits;
  uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; null means contiguous
  uint64_t byte_offset;
};

struct ExchangeHeader {
  uint32_t major, minor;
  ExchangeHeader* previous;
};

struct ExchangeApi {
  ExchangeHeader header;
  // A fresh tensor with dtype, device and shape of the prototype; `report` is called with the reason of a failure.
  int (*allocate)(Tensor* prototype, void** out, void* context,
                  void (*report)(void* context, const char* kind, const char* message));
  void* owning_from_object;
  int (*to_object)(void* managed, void** out);         // takes over `managed`
  int (*view_from_object)(void* object, Tensor* out);  // 0, or -1 with a Python error set
  void* current_stream;
};

constexpr uint32_t kMajor = 1;
constexpr int32_t kCpu = 1;
constexpr uint8_t kInt = 0, kUnsigned = 1, kFloat = 2, kBfloat = 4, kBool = 6;

}  // namespace dlpack
