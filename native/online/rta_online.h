/* Learning and streaming features in the hot path: linear models that are updated with each sample, sparse linear
 * models, features of streams, and a detector of anomalies.
 *
 * An object belongs to one thread at a time. After create, nothing here allocates, takes a lock or makes a system call.
 * A create gives NULL for sizes or settings that are not as said, or without memory. Functions that return int give
 * RTA_ONLINE_OK, RTA_ONLINE_REJECTED where a sample was not learned (nothing changed but the count), or
 * RTA_ONLINE_INVALID for a state that does not fit (nothing changed). An object that is NULL is RTA_ONLINE_INVALID:
 * single numbers that it would give are NaN or 0, and arrays of its own size are not written.
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

/* P += every * diag(variances) before every so-many-th sample with finite numbers. variances [features], not negative.
 */
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

/* Streaming features: a program of nodes that every channel of every stream runs at each step. kinds are those of
 * rta_bank_kind. Node k reads nodes before it. A sample that is not finite, or beyond 1e18 in size, is missing: its
 * channel keeps its state and its features, which are NaN until a first sample came. */
typedef enum {
  RTA_BANK_VALUE = 0, /* the sample */
  RTA_BANK_EWMA = 1,  /* m += max(rate, 1 / (t + 1)) * (of - m), t samples before */
  RTA_BANK_MIN = 2,   /* so far */
  RTA_BANK_MAX = 3,
  RTA_BANK_MEAN = 4,
  RTA_BANK_FIRST = 5,  /* mean of the first `length` samples */
  RTA_BANK_LAG = 6,    /* `length` samples ago; the first one until there are as many */
  RTA_BANK_SLOPE = 7,  /* a sample, of the line by least squares with weights (1 - rate)^age */
  RTA_BANK_SEASON = 8, /* mean at this step modulo `length`, an EWMA over periods */
  RTA_BANK_MINUS = 9   /* of - other */
} rta_bank_kind;

typedef struct {
  int32_t kind, of, other;
  float rate;
  int32_t length;
} rta_bank_node;

/* A feature of the output: a node, for every channel; or of the stream: -1 for scale * steps, -2 for
 * scale * log1p(steps), the step itself counted. */
typedef struct {
  int32_t node;
  float scale;
} rta_bank_output;

typedef struct rta_bank rta_bank;

#define RTA_BANK_MAX_NODES 128
#define RTA_BANK_MAX_LENGTH 65536

rta_bank* rta_bank_create(int64_t streams, int64_t channels, const rta_bank_node* nodes, int node_count,
                          const rta_bank_output* outputs, int output_count);
void rta_bank_destroy(rta_bank* bank);
int64_t rta_bank_width(const rta_bank* bank); /* features of a stream: channels for a node, 1 for a count */
/* x [streams][channels]; y [streams][width], output after output. */
void rta_bank_step(rta_bank* bank, const float* x, float* y);
void rta_bank_reset(rta_bank* bank, int64_t first, int64_t count); /* streams */
/* The state in its own layout: floats, then whole numbers. It goes into a bank of the same streams, channels and nodes.
 */
void rta_bank_state_size(const rta_bank* bank, int64_t* floats, int64_t* integers);
void rta_bank_save(const rta_bank* bank, float* floats, uint32_t* integers);
void rta_bank_load(rta_bank* bank, const float* floats, const uint32_t* integers);

/* A detector of anomalies: records of range, season and jump, each over its threshold; an alert is a score of 1 or
 * more. kernels/online/records.h says what is computed. */
typedef struct rta_records rta_records;

rta_records* rta_records_create(int64_t streams, double range, double season, double jump);
void rta_records_destroy(rta_records* records);
/* One value of each stream; seconds since 1970 on the clock that seasons follow, or NaN for no season. A value that is
 * not finite is missing: its score is NaN. */
void rta_records_score(rta_records* records, const double* values, double seconds, double* scores);
/* Values of one stream in order; seconds may be NULL. */
void rta_records_series(rta_records* records, int64_t stream, const double* values, const double* seconds,
                        int64_t count, double* scores);
void rta_records_reset(rta_records* records, int64_t first, int64_t count);
int64_t rta_records_missing(const rta_records* records, int64_t stream);
size_t rta_records_stream_bytes(void);
void rta_records_save(const rta_records* records, void* bytes); /* [streams][stream_bytes], of this byte order */
int rta_records_load(rta_records* records, const void* bytes);

/* A linear model of sparse features, learned by follow-the-proximally-regularized-leader (McMahan and others, Ad Click
 * Prediction, 2013): w_i = 0 where |z_i| <= l1, else -(z_i - sign(z_i) l1) / ((beta + sqrt(n_i)) / alpha + l2). */
typedef struct rta_ftrl rta_ftrl;

typedef enum { RTA_FTRL_LOGISTIC = 0, RTA_FTRL_SQUARED = 1 } rta_ftrl_loss;

rta_ftrl* rta_ftrl_create(int64_t dimensions, float alpha, float beta, float l1, float l2, rta_ftrl_loss loss);
void rta_ftrl_destroy(rta_ftrl* head);
/* indices below dimensions, in any order; one that comes twice counts as the sum of its values. The prediction is a
 * probability for the logistic loss. NaN where an index or a value is not valid. */
float rta_ftrl_predict(const rta_ftrl* head, const int64_t* indices, const float* values, int64_t count);
/* y: 0 or 1 for the logistic loss. weight: of the sample. prediction: before learning. */
int rta_ftrl_learn(rta_ftrl* head, const int64_t* indices, const float* values, int64_t count, float y, float weight,
                   float* prediction);
void rta_ftrl_save(const rta_ftrl* head, float* z, float* n, int64_t counts[2]); /* counts: learned, rejected */
int rta_ftrl_load(rta_ftrl* head, const float* z, const float* n, const int64_t counts[2]);
int64_t rta_ftrl_weights(const rta_ftrl* head, float* w); /* [dimensions], or NULL; how many are not zero */

#ifdef __cplusplus
}
#endif
#endif
