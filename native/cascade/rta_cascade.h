/* A cascade: plans of growing cost for the same question. Each gives an answer, a test looks at it, and a row whose
 * answer is sure enough leaves; the others go on to the next plan. One call from beginning to end.
 *
 * Either every plan reads the input of the call, or the plans follow one another (heads): each reads the features that
 * the one before gave, and a head of its own makes the answer of them.
 *
 * All answers are float32, `width` of them a row. One with a NaN or +inf in it passes no test: the row goes on. A run
 * allocates nothing, takes no lock and makes no system call (but what a test of the caller's own does). Scores are the
 * same bits on every processor.
 *
 * A cascade that is NULL, as one that was not made, is refused with rta_cascade_error(): -1 or NULL; its states have 0
 * bytes, and its step has no function.
 */
#ifndef RTA_CASCADE_H
#define RTA_CASCADE_H

#include "rta_loop.h"
#include "rta_plan.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Scores of an answer y. p = softmax(y), natural logarithms. */
typedef enum {
  RTA_EXIT_NEVER = 0,
  RTA_EXIT_CONFIDENCE = 1, /* the largest p */
  RTA_EXIT_MARGIN = 2,     /* the largest p less the second */
  RTA_EXIT_ENTROPY = 3,    /* -sum p log p */
  RTA_EXIT_ENERGY = 4,     /* log sum exp y */
  RTA_EXIT_VALUE = 5,      /* y[index] */
  RTA_EXIT_CALL = 6        /* what a function says */
} rta_exit_test;

/* Writes the score of an answer; NaN passes no test. 0, or anything else to end the run with -1. */
typedef int (*rta_exit_fn)(void* self, const float* y, int64_t width, float* score);

/* A row leaves where score >= threshold, or with below where score <= threshold. */
typedef struct {
  rta_exit_test test;
  int below;
  float threshold;
  int64_t index;
  rta_exit_fn call;
  void* self;
} rta_exit;

typedef struct {
  rta_plan* plan;
  rta_plan* head;    /* NULL, or in every stage one that makes the answer of the plan's output */
  int64_t in_bytes;  /* of a row of the plan's input */
  int64_t out_bytes; /* of a row of the plan's output */
  int64_t streams;   /* samples with a state; 0 for a plan without. Rows of a run are then the streams */
  int advance;       /* a plan with states: 1, it makes its step for rows that have left too; 0, their states stay */
  rta_exit exit;     /* not looked at in the last stage */
} rta_cascade_stage;

typedef struct rta_cascade rta_cascade;

/* NULL with rta_cascade_error() where something does not fit. Plans stay the caller's and must live on; no other thread
 * may run one during a run. max_rows: of a run. */
rta_cascade* rta_cascade_create(const rta_cascade_stage* stages, int count, int64_t width, int64_t max_rows);
void rta_cascade_destroy(rta_cascade* cascade);
/* Makes room for more rows: it allocates. 0, or -1. */
int rta_cascade_reserve(rta_cascade* cascade, int64_t rows);

/* in: rows of the first plan, out: rows * width, both contiguous and apart. 0, or -1 where a plan refuses its input or
 * a test ends the run: then `out` and the states of plans that ran are worth nothing. */
int rta_cascade_run(rta_cascade* cascade, const void* in, float* out, int64_t rows);
/* The same through all stages: the longest that a run can take. */
int rta_cascade_run_through(rta_cascade* cascade, const void* in, float* out, int64_t rows);
/* The stage that each row of the last run left at. */
const int32_t* rta_cascade_exits(const rta_cascade* cascade);
/* Rows that left at each stage since it was made, int64 [stages]. */
const int64_t* rta_cascade_counts(const rta_cascade* cascade);

/* Between two runs. Another plan of the same tensors, another threshold. 0, or -1 for a stage that there is not. */
int rta_cascade_set_plan(rta_cascade* cascade, int stage, rta_plan* plan, rta_plan* head);
int rta_cascade_set_threshold(rta_cascade* cascade, int stage, float threshold);

/* The best answer by a deadline: after the first, a stage is run only where cost_ns of it (int64 [stages]) still fits
 * into deadline_ns from the start of the run. 0: no deadline. -1 where a stage advances states, which it then could
 * not. */
int rta_cascade_deadline(rta_cascade* cascade, int64_t deadline_ns, const int64_t* cost_ns);
/* Runs that ended after their deadline. */
int64_t rta_cascade_late(const rta_cascade* cascade);

/* All states, stage by stage. */
size_t rta_cascade_state_bytes(const rta_cascade* cascade);
void rta_cascade_save_state(const rta_cascade* cascade, void* to);
int rta_cascade_load_state(rta_cascade* cascade, const void* from);
void rta_cascade_reset(rta_cascade* cascade);

/* A run of so many rows as a step of a loop: as its model, or as its fallback. */
rta_step rta_cascade_step(rta_cascade* cascade, int64_t rows);
/* As rta_plan_prefault, of all its plans: 0, or -1. */
int rta_cascade_prefault(rta_cascade* cascade);

/* The scores that a test gives answers y [rows, width]. 0, or -1 where its function says so. */
int rta_exit_scores(const rta_exit* exit, const float* y, int64_t width, int64_t rows, float* scores);

/* Why the last call in this thread failed. */
const char* rta_cascade_error(void);

#ifdef __cplusplus
}
#endif
#endif
