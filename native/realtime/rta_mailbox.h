/* A mailbox in memory that a CPU and a persistent kernel on a GPU both observe: the host's side.
 *
 * Every word is 8 bytes: 32 bits of payload below, 32 bits of sequence number above, stored at once. Whoever reads a
 * word with the number he waits for has its payload, so neither side needs a fence or a flag, and a message crosses the
 * link once. There are two slots, taken in turn: the words of a message are not written over while the other side may
 * still read them.
 */
#ifndef RTACCEL_MAILBOX_H
#define RTACCEL_MAILBOX_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { RTA_MAILBOX_DONE = 0, RTA_MAILBOX_TIMEOUT = 1 } rta_mailbox_status;

/* Writes one word, for a message that has more than its payload. */
void rta_mailbox_put(uint64_t* to, uint32_t payload, uint32_t sequence);

/* Writes `request_words` words of payload to `to` with this number, and waits until the `reply_words` words at `from`
 * have it; then their payloads are in `reply`. Spins; gives up after timeout_ns nanoseconds (0: never), with `reply`
 * untouched where no word had come. */
rta_mailbox_status rta_mailbox_exchange(uint64_t* to, const uint32_t* request, int64_t request_words,
                                        const uint64_t* from, uint32_t* reply, int64_t reply_words, uint32_t sequence,
                                        int64_t timeout_ns);

/* The two halves of an exchange, for a caller that does something else before he waits for long. What a wait has read
 * stays in the mailbox: it may be given up and begun again. The shortest wait is a thousand spins, some 10 us. */
void rta_mailbox_send(uint64_t* to, const uint32_t* request, int64_t request_words, uint32_t sequence);
/* The same of float32 numbers that are rounded here: x * inverse to the nearest whole number, of two the even one, plus
 * zero_point, within -128 and 127. Four are a word, the first one lowest; behind the last there are zeros. Gives 1
 * where all numbers were finite, and 0 else: the message has to say so by a word of its own. */
int rta_mailbox_send_int8(uint64_t* to, const float* x, int64_t numbers, float inverse, int32_t zero_point,
                          uint32_t sequence);
rta_mailbox_status rta_mailbox_wait(const uint64_t* from, uint32_t* reply, int64_t reply_words, uint32_t sequence,
                                    int64_t timeout_ns);

/* Waits for a message with this number and then answers it, as a kernel does: for tests of the other side. The payload
 * of the answer is the message's, repeated. */
rta_mailbox_status rta_mailbox_echo(const uint64_t* from, int64_t request_words, uint64_t* to, int64_t reply_words,
                                    uint32_t sequence, int64_t timeout_ns);

#ifdef __cplusplus
}
#endif
#endif
