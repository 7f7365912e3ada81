// A frame as one end of a link takes it: of its model, kind and shapes, and newer than all before (rta_frame.h).
#include <cstring>

#include "rta_frame.h"

namespace {

bool fits(const rta_frame_tensor& found, const rta_frame_tensor& expected) {
  return found.wire == expected.wire && found.rank == expected.rank &&
         std::memcmp(found.dims, expected.dims, sizeof found.dims) == 0;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int rta_frame_read(const void* frame, size_t size,
                                                                     const rta_frame_end* end, int kind,
                                                                     uint64_t session, rta_frame_guard* guard,
                                                                     rta_frame_head* head) {
  if (!end || !guard || !head) return RTA_FRAME_LAYOUT;
  if (size > rta_frame_bytes(end->tensors, end->count)) return RTA_FRAME_OVERSIZE;  // before a digest of what is long
  rta_frame_tensor found[RTA_FRAME_TENSORS];
  int count = 0;
  rta_frame_head h{};
  if (const int code = rta_frame_parse(frame, size, end->key, &h, found, &count)) return code;
  if (h.kind != kind) return RTA_FRAME_KIND;
  if (kind == RTA_FRAME_REQUEST && h.status) return RTA_FRAME_KIND;  // it says that its tensors mean nothing
  if (std::memcmp(h.model, end->model, sizeof h.model) != 0) return RTA_FRAME_MODEL;
  if (session && h.session != session) return RTA_FRAME_SESSION;
  const bool whole = h.status == 0;  // an answer that says what went wrong has tensors that mean nothing
  if (whole && count != end->count) return RTA_FRAME_LAYOUT;
  for (int i = 0; whole && i < count; ++i)
    if (!fits(found[i], end->tensors[i])) return RTA_FRAME_LAYOUT;
  if (const int code = rta_frame_admit(guard, &h)) return code;
  for (int i = 0; whole && i < count; ++i) rta_frame_unpack(found + i, end->tensors[i].data);
  *head = h;
  return RTA_FRAME_OK;
}
