/* Frames in datagrams, one each. Sockets are the caller's: opened, bound or connected by whatever it has, and closed by
 * it after the server has stopped. Nothing is encrypted; the key of a frame authenticates it. Not on Windows.
 *
 * For an endpoint that is NULL no server is started, and stopping a server that is NULL does nothing.
 */
#ifndef RTA_UDP_H
#define RTA_UDP_H

#include "rta_endpoint.h"

#ifdef __cplusplus
extern "C" {
#endif

#define RTA_UDP_MOST_BYTES 65507 /* of a datagram over IPv4 */

typedef struct rta_udp_server rta_udp_server;

/* Starts a thread that answers the datagrams of a bound socket; senders are told apart by where they send from.
 * spin_ns: after each datagram it looks for the next one for so long before it sleeps. NULL where there is no thread to
 * be had, and for frames larger than a datagram. */
rta_udp_server* rta_udp_serve(rta_endpoint* endpoint, int socket, int64_t spin_ns);
/* Ends the thread, within a tenth of a second and the request that it computes. */
void rta_udp_stop(rta_udp_server* server);

/* Sends a frame over a connected socket: 0; or 1 where it is lost at once, because nobody is there or a queue is full;
 * or -1 for another error, errno. */
int rta_udp_send(int socket, const void* frame, size_t size);
/* The next datagram: its bytes; -1 where none came within the time, or nobody is there; -2 for an error of the socket,
 * errno. It looks for spin_ns without sleeping. One that is larger than `capacity` is cut off. */
int64_t rta_udp_receive(int socket, void* into, size_t capacity, int64_t timeout_ns, int64_t spin_ns);

#ifdef __cplusplus
}
#endif
#endif
