/* Learning and streaming features in the hot path: linear models that are updated with each sample, sparse linear
 * models, features of streams, and a detector of anomalies.
 *
 * An object belongs to one thread at a time. After create, nothing here allocates, takes a lock or makes a system call.
 * A create gives NULL for sizes or settings that are not as said, or without memory. Functions that return int give
 * RTA_ONLINE_OK, RTA_ONLINE_REJECTED where a sample was not learned (nothing changed but the count), or
 * RTA_ONLINE_INVALID for a state that does not fit (nothing changed).
 */
#ifndef RTA_ONLINE_H
#define RTA_ONLINE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { RTA_ONLINE_OK = 0, RTA_ONLINE_REJECTED = 1, RTA_ONLINE_INVALID = -1 };

/* A linear model y = w phi in UD form: P = U D U' is the covariance of w, in units of the noise for least squares.
 *
 * Recursive least squares: noise = forget in (0, 1]. A Kalman filter of slowly changing weights: forget = 1, noise the
 * variance of y's noise, and rta_ud_process_noise. P starts as p0 on the diagonal; no element of D exceeds d_max. */
typedef struct rta_ud rta_ud;

#define RTA_UD_MAX_FEATURES 4096

rta_ud* rta_ud_create(int64_t features, int64_t outputs, float p0, float noise, float forget, float d_max);
void rta_ud_destroy(rta_ud* head);

/* P += every * diag(variances) before every so-many-th sample with finite numbers. variances [features], not negative. */
int rta_ud_process_noise(rta_ud* head, const float* variances, int64_t every);

/* phi [features], y [outputs]; prediction [outputs] gets w phi as it was before learning, and may be y itself. A sample
 * with a number that is not finite, or beyond 1e18 in size, is rejected and counted. */
int rta_ud_learn(rta_ud* head, const float* phi, const float* y, float* prediction);
void rta_ud_predict(const rta_ud* head, const float* phi, float* prediction);
float rta_ud_variance(rta_ud* head, const float* phi); /* phi' P phi; NaN where phi is not finite */
int rta_ud_inflate(rta_ud* head, float factor);        /* D *= factor, up to d_max */

/* What was learned: u [features][features] with ones on the diagonal and zeros below it, d [features],
 * w [outputs][features], counts {learned, rejected, samples since process noise was added}. Loading gives the same bits
 * from there on; it refuses what is not finite, no unit upper triangle, or outside 0 <= d <= d_max. */
void rta_ud_save(const rta_ud* head, float* u, float* d, float* w, int64_t counts[3]);
int rta_ud_load(rta_ud* head, const float* u, const float* d, const float* w, const int64_t counts[3]);
void rta_ud_counts(const rta_ud* head, int64_t counts[3]);
void rta_ud_weights(const rta_ud* head, float* w); /* [outputs][features] */

#ifdef __cplusplus
}
#endif
#endif
