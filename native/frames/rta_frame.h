/* Frames: tensors on the wire between the halves of a model, in a caller's memory.
 *
 * A frame is a head of 64 bytes, a descriptor of 40 bytes for each tensor, and the tensors, each from a multiple of 8
 * bytes on. All numbers are little-endian. docs/reference/frames.md has the layout. Nothing here allocates, takes a
 * lock or makes a system call. The digest is SipHash-2-4 over all bytes but its own: with a key that only the two ends
 * know it authenticates a frame, with a key of zeros it finds damage alone.
 *
 * A head, tensor, key, guard or end that is NULL is refused with RTA_FRAME_LAYOUT; functions that give bytes or a
 * digest give 0 for it.
 */
#ifndef RTA_FRAME_H
#define RTA_FRAME_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RTA_FRAME_VERSION 1
#define RTA_FRAME_HEAD_BYTES 64
#define RTA_FRAME_TENSORS 8
#define RTA_FRAME_DIMS 7

/* How a tensor lies in a frame. The first three are copies. The last two are of float32: for each row of the first
 * dimension the least value and a step, both float32, and codes 0..255 or 0..15 (two in a byte, the lower bits first):
 * x = least + step * code. A row with a NaN or an infinity comes out as NaN. */
typedef enum { RTA_WIRE_FLOAT32 = 0, RTA_WIRE_INT8 = 1, RTA_WIRE_INT64 = 2, RTA_WIRE_Q8 = 3, RTA_WIRE_Q4 = 4 } rta_wire;

typedef enum { RTA_FRAME_REQUEST = 1, RTA_FRAME_ANSWER = 2 } rta_frame_kind;

/* What is wrong with a frame; 0 where nothing is. */
typedef enum {
  RTA_FRAME_OK = 0,
  RTA_FRAME_TRUNCATED = -1, /* fewer bytes than its head says, or than a head has */
  RTA_FRAME_OVERSIZE = -2,  /* more bytes than its head says, or than the caller takes */
  RTA_FRAME_MAGIC = -3,     /* no frame */
  RTA_FRAME_VERSION_OF = -4,
  RTA_FRAME_DIGEST = -5,    /* damaged, or of another key */
  RTA_FRAME_LAYOUT = -6,    /* tensors that do not fill it, or are not those that were expected */
  RTA_FRAME_MODEL = -7,     /* of another model */
  RTA_FRAME_REPLAYED = -8,  /* a sequence number that was there already */
  RTA_FRAME_REORDERED = -9, /* one before the newest */
  RTA_FRAME_SESSION = -10,  /* of an earlier start of its sender, or an answer to another one's request */
  RTA_FRAME_KIND = -11      /* an answer where a request was expected, or the reverse */
} rta_frame_code;

typedef struct {
  uint64_t session;  /* grows with each start of a sender: nanoseconds since 1970 at its start */
  uint64_t sequence; /* from 1 on, within a session */
  int64_t stamp_ns;  /* of the sender's clock; an answer has that of its request */
  uint8_t model[16]; /* the first bytes of the model's digest */
  uint16_t status;   /* of an answer; 0 is good */
  uint8_t kind;      /* rta_frame_kind */
} rta_frame_head;

typedef struct {
  void* data;   /* where it is written from, or read to; in a parsed frame, where it lies */
  size_t bytes; /* in the frame */
  uint32_t dims[RTA_FRAME_DIMS];
  uint8_t wire, rank;
} rta_frame_tensor;

/* Bytes that a tensor takes in a frame; 0 for a rank, wire or size that there is not. */
size_t rta_frame_tensor_bytes(const rta_frame_tensor* tensor);
/* Bytes of a frame with these tensors; 0 where one of them is none. */
size_t rta_frame_bytes(const rta_frame_tensor* tensors, int count);

/* Writes a frame into `out` and gives its bytes, or RTA_FRAME_OVERSIZE where `capacity` is too small, RTA_FRAME_LAYOUT
 * for tensors that cannot be sent. */
int64_t rta_frame_write(void* out, size_t capacity, const rta_frame_head* head, const rta_frame_tensor* tensors,
                        int count, const uint8_t key[16]);

/* Checks a frame whole: its size, digest, and that the tensors fill it. `tensors` (RTA_FRAME_TENSORS of them) then say
 * where each lies. Nothing is written where it is refused. */
int rta_frame_parse(const void* frame, size_t size, const uint8_t key[16], rta_frame_head* head,
                    rta_frame_tensor* tensors, int* count);

/* Puts the numbers of a parsed tensor into `out`: float32, int8 or int64 as its wire says. */
void rta_frame_unpack(const rta_frame_tensor* tensor, void* out);

/* What a receiver remembers of one sender. Zeros at first. */
typedef struct {
  uint64_t session, newest;
} rta_frame_guard;

/* Whether a frame is newer than all before it, and so may be used; the guard moves on only where it is. A greater
 * session is a sender that started anew. */
int rta_frame_admit(rta_frame_guard* guard, const rta_frame_head* head);

/* What an end of a link knows: its tensors, with `data` where they lie in memory, the first bytes of the model's
 * digest, and the key. */
typedef struct {
  const rta_frame_tensor* tensors;
  int count;
  uint8_t model[16], key[16];
} rta_frame_end;

/* Checks a frame against an end and reads it into the end's memory: 0, or why it is refused, with memory and guard as
 * they were. session: of an answer's request; 0 for a receiver of requests. An answer with a status other than 0 is
 * admitted, and its tensors are not read. */
int rta_frame_read(const void* frame, size_t size, const rta_frame_end* end, int kind, uint64_t session,
                   rta_frame_guard* guard, rta_frame_head* head);

uint64_t rta_siphash(const void* data, size_t size, const uint8_t key[16]);

#ifdef __cplusplus
}
#endif
#endif
