/* Who answers frames: a model behind a link, wholly in native code. Bytes come and bytes go: it knows no transport.
 *
 * A frame that is refused gets no answer and is counted. Each sender's sequence numbers have to grow, so what is
 * replayed or reordered is refused. Any thread may call; one request is computed at a time. After a sender's first
 * frame nothing is allocated.
 *
 * An endpoint that is NULL, as one that was not made, has no model: every frame is RTA_FRAME_MODEL, and counts are 0.
 */
#ifndef RTA_ENDPOINT_H
#define RTA_ENDPOINT_H

#include "rta_frame.h"
#include "rta_loop.h"

#ifdef __cplusplus
extern "C" {
#endif

#define RTA_ENDPOINT_PEER_BYTES 64
/* Status of an answer to numbers that the model does not take; its tensors are zeros. */
#define RTA_ENDPOINT_REFUSED 1

typedef struct rta_endpoint rta_endpoint;

typedef struct {
  rta_frame_end in;  /* requests; the step reads this memory */
  rta_frame_end out; /* answers; the step writes this memory */
  rta_step_fn step;  /* as of rta_step_of_plan or rta_step_of_model; other than 0: the model takes no such numbers */
  void* self;
  int64_t most_peers; /* senders that are remembered; the one that was silent longest is forgotten */
} rta_endpoint_config;

typedef struct {
  int64_t answered, failed;
  int64_t refused[16]; /* by -rta_frame_code */
  int64_t peers;
} rta_endpoint_stats;

/* NULL for tensors that no frame holds, and without a step or a sender. The tensors' memory and what the step needs
 * stay the caller's, and must live on. */
rta_endpoint* rta_endpoint_create(const rta_endpoint_config* config);
void rta_endpoint_destroy(rta_endpoint* endpoint);
size_t rta_endpoint_bytes(const rta_endpoint* endpoint, int answers); /* of a request, or of an answer */

/* Writes the answer and gives its bytes; or gives the rta_frame_code of what was refused. peer: who sent it, up to
 * RTA_ENDPOINT_PEER_BYTES bytes by which the transport tells senders apart; more are RTA_FRAME_OVERSIZE, as is an `out`
 * that is too small: then the frame was not looked at. */
int64_t rta_endpoint_answer(rta_endpoint* endpoint, const void* frame, size_t size, const void* peer, size_t peer_bytes,
                            void* out, size_t capacity);
void rta_endpoint_statistics(const rta_endpoint* endpoint, rta_endpoint_stats* stats);

#ifdef __cplusplus
}
#endif
#endif
