#include <stddef.h>
#include <stdint.h>
typedef enum { RTA_LATEST_ONE = 1, RTA_LATEST_MANY = 8 } rta_latest_readers;
typedef enum { RTA_LATEST_NONE = 0, RTA_LATEST_NEW = 1, RTA_LATEST_OLD = 2 } rta_latest_status;
typedef enum { RTA_LATEST_WRITER = 0, RTA_LATEST_READER = 1 } rta_latest_role;
typedef enum { RTA_LATEST_NAN_PASS = 0, RTA_LATEST_NAN_REFUSE = 1 } rta_latest_nan;
typedef enum {
  RTA_LATEST_OLDER = -1,
  RTA_LATEST_FUTURE = -2,
  RTA_LATEST_TAKEN = -3,
  RTA_LATEST_HAS_NAN = -4,
  RTA_LATEST_BAD = -5
} rta_latest_error;
typedef enum {
  RTA_LATEST_FLOAT32 = 0,
  RTA_LATEST_INT8 = 1,
  RTA_LATEST_INT64 = 2,
  RTA_LATEST_INT32 = 3,
  RTA_LATEST_UINT8 = 4,
  RTA_LATEST_BFLOAT16 = 5,
  RTA_LATEST_FLOAT64 = 16,
  RTA_LATEST_FLOAT16 = 17,
  RTA_LATEST_INT16 = 18,
  RTA_LATEST_BOOL = 19
} rta_latest_dtype;
typedef struct {
  int64_t seq;
  int64_t stamp_ns;
  int64_t put_ns;
  int64_t origin;
  int64_t reserved[4];
} rta_latest_stamp;
typedef struct {
  char magic[8];
  uint32_t version;
  uint32_t header_bytes;
  uint64_t total_bytes;
  uint64_t payload_bytes;
  uint64_t stride;
  uint32_t readers;
  uint32_t buffers;
  uint32_t dtype;
  uint32_t ndim;
  uint32_t nan;
  uint32_t ready;
  int64_t shape[8];
  uint64_t unused[8];
  uint64_t writer, reader;
  uint64_t line2[6];
  uint32_t word;
  uint32_t line3[15];
  int64_t latest;
  uint64_t line4[7];
  int64_t dropped, clock_back;
  uint64_t line5[6];
  uint64_t line6[8];
} rta_latest_header;
typedef struct rta_latest rta_latest;
typedef struct {
  const void* data;
  int64_t seq, stamp_ns, put_ns, origin;
  int status;
} rta_latest_sample;
rta_latest* rta_latest_create(const char* name, uint32_t dtype, int ndim, const int64_t* shape,
                              rta_latest_readers readers, rta_latest_nan nan) {}
rta_latest* rta_latest_open(const char* name) {}
void rta_latest_close(rta_latest* slot) {}
void rta_latest_leave(rta_latest* slot) {}
int rta_latest_unlink(const char* name) {}
const char* rta_latest_error_text(void) {}
const rta_latest_header* rta_latest_describe(const rta_latest* slot) {}
const void* rta_latest_buffer(const rta_latest* slot, int index) {}
int64_t rta_latest_put(rta_latest* slot, const void* data, int64_t stamp_ns) {}
int rta_latest_get(rta_latest* slot, rta_latest_sample* sample) {}
int rta_latest_lend(rta_latest* slot, rta_latest_role role) {}
void rta_latest_take_back(rta_latest* slot, rta_latest_role role) {}
void* rta_latest_next(rta_latest* slot) {}
int64_t rta_latest_publish(rta_latest* slot, const void* data, int64_t stamp_ns, int64_t now_ns, int64_t origin) {}
int64_t rta_latest_put_at(rta_latest* slot, const void* data, int64_t stamp_ns, int64_t now_ns) {}
void rta_latest_take(rta_latest* slot, rta_latest_sample* sample) {}
int rta_latest_lock_memory(rta_latest* slot) {}
int64_t rta_latest_now_ns(void) {}
typedef enum {
  RTA_FLOAT32 = 0,
  RTA_INT8 = 1,
  RTA_INT64 = 2,
  RTA_INT32 = 3,
  RTA_UINT8 = 4,
  RTA_BFLOAT16 = 5,
  RTA_FLOAT16 = 6,
  RTA_INT16 = 7
} rta_dtype;
typedef enum { RTA_INNER = 0, RTA_INPUT = 1, RTA_OUTPUT = 2, RTA_STATE = 3 } rta_role;
typedef enum { RTA_ATTR_INT = 0, RTA_ATTR_FLOAT = 1, RTA_ATTR_TEXT = 2, RTA_ATTR_TENSOR = 3 } rta_attr_kind;
typedef struct {
  const char* name;
  rta_attr_kind kind;
  int64_t integer;
  double real;
  const char* text;
  const void* data;
  rta_dtype dtype;
  int64_t count;
} rta_attr;
typedef struct rta_plan rta_plan;
typedef struct {
  const char* op;
  const char* name;
  int rank;
} rta_kernel;
int rta_abi_version(void) {}
const char* rta_error(void) {}
const char* rta_isa(void) {}
const char* rta_isa_name(int index) {}
int rta_kernel_count(void) {}
rta_kernel rta_kernel_at(int index) {}
const char* rta_kernel_reject(const char* op, const char* name, const rta_attr* attrs, int attr_count) {}
const char* rta_kernel_unsuited(const char* op, const char* name, const rta_attr* attrs, int attr_count) {}
rta_plan* rta_plan_create(size_t weight_bytes) {}
void rta_plan_destroy(rta_plan* plan) {}
int rta_plan_value(rta_plan* plan, rta_dtype dtype, int64_t steps, int64_t width, rta_role role) {}
int rta_plan_stage(rta_plan* plan, const char* op, const char* kernel, const int* inputs, int input_count,
                   const int* outputs, int output_count, const rta_attr* attrs, int attr_count) {}
int rta_plan_threads(rta_plan* plan, int threads) {}
int rta_plan_finish(rta_plan* plan, int64_t state_samples, int64_t memory) {}
int rta_plan_run(rta_plan* plan, const void* const* inputs, void* const* outputs, int64_t samples) {}
int rta_plan_run_some(rta_plan* plan, const void* const* inputs, void* const* outputs, int64_t samples,
                      const int64_t* streams) {}
double rta_plan_profile(rta_plan* plan, const void* const* inputs, void* const* outputs, int64_t samples, int64_t calls,
                        int64_t* ticks) {}
void rta_plan_reset(rta_plan* plan, int64_t first, int64_t count) {}
size_t rta_plan_state_bytes(const rta_plan* plan) {}
void rta_plan_save_state(const rta_plan* plan, void* to) {}
int rta_plan_load_state(rta_plan* plan, const void* from) {}
int rta_plan_offer(rta_plan* plan, rta_plan* next) {}
int rta_plan_pending(const rta_plan* plan) {}
int rta_plan_withdraw(rta_plan* plan, rta_plan* next) {}
size_t rta_plan_stream_bytes(const rta_plan* plan) {}
int rta_plan_save_stream(const rta_plan* plan, int64_t stream, void* to) {}
int rta_plan_load_stream(rta_plan* plan, int64_t stream, const void* from) {}
int rta_plan_parts(const rta_plan* plan, int stage, int64_t samples) {}
int rta_plan_running_threads(const rta_plan* plan) {}
int64_t rta_plan_prefault(rta_plan* plan) {}
int rta_plan_lock(rta_plan* plan) {}
size_t rta_plan_packed_bytes(const rta_plan* plan) {}
size_t rta_plan_scratch_bytes(const rta_plan* plan) {}
size_t rta_code_bytes(void) {}
typedef struct rta_model rta_model;
typedef enum {
  RTA_OK = 0,
  RTA_CANNOT_READ = 1,
  RTA_BAD_FORMAT = 2,
  RTA_NEWER = 3,
  RTA_BAD_DIGEST = 4,
  RTA_BAD_KEY = 5,
  RTA_NO_KERNEL = 6,
  RTA_NO_FIT = 7,
  RTA_BAD_ARGUMENT = 8,
  RTA_OTHER = 9,
  RTA_NO_DEVICE = 10,
  RTA_DEVICE_FAILED = 11,
  RTA_NO_ROOM =
      12,
  RTA_NO_ANSWER = 13
} rta_code;
enum {
  RTA_UNCHECKED = 1,
  RTA_LARGE = 2,
  RTA_IN_PLACE = 4
};
typedef struct {
  const char* name;
  rta_dtype dtype;
  int rank;
  int lead;
  int64_t shape[8];
  int64_t sample_elements;
} rta_tensor;
rta_code rta_error_code(void) {}
rta_model* rta_model_open(const char* path, unsigned flags) {}
rta_model* rta_model_from_memory(const void* data, size_t size, unsigned flags) {}
rta_model* rta_model_open_threaded(const char* path, unsigned flags, int threads) {}
rta_model* rta_model_from_memory_threaded(const void* data, size_t size, unsigned flags, int threads) {}
void rta_model_close(rta_model* model) {}
const char* rta_model_name(const rta_model* model) {}
int rta_model_count(const rta_model* model, int outputs) {}
int rta_model_tensor(const rta_model* model, int output, int index, rta_tensor* tensor) {}
void rta_model_batch(const rta_model* model, int64_t* least, int64_t* most) {}
int64_t rta_model_streams(const rta_model* model) {}
int rta_model_step(rta_model* model, const void* const* in, void* const* out, int64_t samples) {}
int rta_model_step_some(rta_model* model, const void* const* in, void* const* out, int64_t samples,
                        const int64_t* streams) {}
int rta_model_reset(rta_model* model, int64_t first, int64_t count) {}
size_t rta_model_state_bytes(const rta_model* model) {}
void rta_model_save_state(const rta_model* model, void* to) {}
int rta_model_load_state(rta_model* model, const void* from) {}
int rta_model_swap(rta_model* model, const char* path, unsigned flags) {}
int rta_model_swap_memory(rta_model* model, const void* data, size_t size, unsigned flags) {}
int rta_model_rollback(rta_model* model) {}
int rta_model_pending(const rta_model* model) {}
int rta_model_stage(const rta_model* model, int stage, const char** name, const char** op, const char** kernel) {}
size_t rta_model_prepacked(const rta_model* model, const char** why) {}
size_t rta_model_pack(const rta_model* model, void* to) {}
int64_t rta_model_prefault(rta_model* model) {}
int rta_model_lock(rta_model* model) {}
rta_plan* rta_model_plan(rta_model* model) {}
int rta_model_digest(const char* path, unsigned char digest[32]) {}
int rta_model_verify(const char* path, const unsigned char key[32]) {}
int rta_model_verify_with(const char* path, const unsigned char key[32],
                          int (*verify)(const unsigned char* signature, const unsigned char* message,
                                        unsigned long long bytes, const unsigned char* key)) {}
typedef int (*rta_step_fn)(void* self, const void* const* in, void* const* out);
typedef struct {
  rta_step_fn step;
  void* self;
  size_t in_bytes, out_bytes;
  size_t state_bytes;
  void (*save)(void* self, void* to);
  int (*load)(void* self, const void* from);
  void (*reset)(void* self);
  const char* (*error)(void* self);
  const void* identity;
  int warm;
  int (*prepare)(void* self);
} rta_step;
typedef struct {
  int inputs, outputs;
  size_t in_bytes[16], out_bytes[16];
} rta_step_ports;
typedef struct {
  rta_plan* plan;
  int64_t samples, state_samples;
} rta_plan_step;
rta_step rta_step_of_plan(rta_plan_step* plan, size_t in_bytes, size_t out_bytes) {}
int rta_step_of_model(rta_model* model, int64_t batch, rta_plan_step* kept, rta_step* step, rta_step_ports* ports) {}
typedef enum {
  RTA_MISS_HOLD = 0,
  RTA_MISS_LATE = 1,
  RTA_MISS_CATCH_UP = 2,
  RTA_MISS_RAISE = 3
} rta_on_miss;
typedef enum { RTA_STALE_HOLD = 0, RTA_STALE_FALLBACK = 1, RTA_STALE_RAISE = 2, RTA_STALE_FORECAST = 3 } rta_on_stale;
typedef enum { RTA_OLD_STEP = 0, RTA_OLD_HOLD = 1 } rta_on_old;
typedef enum { RTA_GAP_STEP = 0, RTA_GAP_RESET = 1 } rta_on_gap;
typedef enum {
  RTA_ORIGIN_PUT = 0,
  RTA_ORIGIN_FRESH = 1,
  RTA_ORIGIN_HELD = 2,
  RTA_ORIGIN_FALLBACK = 3,
  RTA_ORIGIN_FORECAST = 4,
  RTA_ORIGIN_MISSED = 5
} rta_loop_origin;
typedef struct {
  int64_t (*now)(void* self);
  int64_t (*sleep_until)(void* self, int64_t ns);
  int64_t (*spin_until)(void* self, int64_t ns);
  void* self;
} rta_loop_clock;
typedef struct {
  rta_latest *read, *write;
  const rta_step* steps;
  int step_count;
  const rta_step* fallback;
  int fallback_count;
  const rta_step* forecast;
  int forecast_count;
  int64_t period_ns, deadline_ns, max_age_ns, spin_ns;
  int on_miss, on_stale, on_old, on_gap;
  int priority;
  int cpu;
  int warm, lock_memory, strict;
  const char* name;
  const rta_loop_clock* clock;
} rta_loop_config;
typedef struct {
  int64_t max_ns, sum_ns;
  int64_t counts[1184];
} rta_loop_histogram;
typedef enum { RTA_LOOP_MADE = 0, RTA_LOOP_RUNNING = 1, RTA_LOOP_STOPPED = 2, RTA_LOOP_FAILED = 3 } rta_loop_state;
typedef enum { RTA_FAILED_NOT = 0, RTA_FAILED_STALE = 1, RTA_FAILED_LATE = 2, RTA_FAILED_STEP = 3 } rta_loop_failed_by;
typedef struct {
  char magic[8];
  uint32_t version, bytes;
  uint64_t owner;
  int64_t state;
  int64_t period_ns, deadline_ns, max_age_ns, spin_ns;
  int64_t fifo, locked;
  int64_t started_ns, updated_ns;
  int64_t cycles;
  int64_t skipped;
  int64_t fresh;
  int64_t repeated;
  int64_t waiting;
  int64_t stale;
  int64_t held;
  int64_t fallback;
  int64_t forecast;
  int64_t misses;
  int64_t caught_up;
  int64_t streak, longest_streak;
  int64_t clock_back;
  int64_t overwritten;
  int64_t warm_runs, warm_skipped;
  int64_t every_runs;
  int64_t failed_by;
  int64_t reserved[7];
  rta_loop_histogram wake_error;
  rta_loop_histogram work;
  rta_loop_histogram response;
  rta_loop_histogram age;
  rta_loop_histogram latency;
} rta_loop_stats;
typedef struct {
  size_t bytes;
  rta_latest* const* read;
  int read_count;
  rta_latest* const* write;
  int write_count;
  uint64_t any_age;
  const rta_step_ports* steps;
  const rta_step_ports* fallback;
  const rta_step_ports* forecast;
} rta_loop_ports;
typedef struct rta_loop rta_loop;
rta_loop* rta_loop_create(const rta_loop_config* config) {}
rta_loop* rta_loop_create_ports(const rta_loop_config* config, const rta_loop_ports* ports) {}
int rta_loop_every(rta_loop* loop, int64_t n, const rta_step* steps, int count, rta_latest* read, rta_latest* write) {}
int rta_loop_every_ports(rta_loop* loop, int64_t n, const rta_step* steps, int count, const rta_loop_ports* ports) {}
int rta_loop_start(rta_loop* loop) {}
const char* rta_loop_refused(const rta_loop* loop) {}
int rta_loop_run(rta_loop* loop, int64_t cycles) {}
void rta_loop_stop(rta_loop* loop) {}
int rta_loop_wait(rta_loop* loop, int64_t timeout_ns) {}
void rta_loop_destroy(rta_loop* loop) {}
const char* rta_loop_failure(const rta_loop* loop) {}
const rta_loop_stats* rta_loop_statistics(const rta_loop* loop) {}
const char* rta_loop_error_text(void) {}
const rta_loop_stats* rta_loop_stats_open(const char* name) {}
void rta_loop_stats_close(const rta_loop_stats* stats) {}
int rta_loop_alive(const rta_loop_stats* stats) {}
int64_t rta_loop_quantile(const rta_loop_histogram* histogram, double share) {}
int rta_loop_bucket(int64_t ns) {}
int64_t rta_loop_bucket_end(int bucket) {}
typedef struct rta_workers rta_workers;
struct rta_batcher;
typedef struct {
  int threads;
  const int* cores;
  int priority;
  int manual;
} rta_workers_config;
typedef struct {
  int64_t batchers;
  int64_t batches;
  int64_t busy_ns;
} rta_workers_stats;
rta_workers* rta_workers_create(const rta_workers_config* config) {}
const char* rta_workers_refused(const rta_workers* workers) {}
int rta_workers_stop(rta_workers* workers) {}
void rta_workers_destroy(rta_workers* workers) {}
void rta_workers_statistics(const rta_workers* workers, rta_workers_stats* stats) {}
struct rta_batcher* rta_workers_turn(rta_workers* workers, int64_t now_ns, int64_t took_ns, int64_t* until) {}
typedef enum {
  RTA_ANSWER_OK = 0,
  RTA_ANSWER_LATE = 1,
  RTA_ANSWER_REPLACED = 2,
  RTA_ANSWER_DROPPED = 3,
  RTA_ANSWER_REFUSED = 4
} rta_answer;
typedef enum {
  RTA_PUT_FULL = -1,
  RTA_PUT_STOPPED = -2,
  RTA_PUT_STAMP = -3,
  RTA_PUT_STREAM = -4
} rta_put_error;
typedef enum { RTA_PUT_QUEUED = 0, RTA_PUT_REPLACING = 1, RTA_PUT_OVERTAKEN = 2 } rta_put_result;
typedef enum { RTA_LATE_ANSWER = 0, RTA_LATE_DROP = 1 } rta_batcher_late;
typedef struct {
  rta_plan* plan;
  int64_t streams;
  size_t in_bytes, out_bytes;
  int64_t deadline_ns;
  int64_t max_batch;
  int64_t tickets;
  int64_t spin_ns;
  int late;
  int cpu;
  int manual;
  rta_workers* workers;
  int64_t results;
} rta_batcher_config;
typedef struct {
  int64_t count;
  const int64_t* streams;
  const int64_t* stamps_ns;
  const void* y;
  const uint8_t* status;
} rta_batch;
typedef struct {
  int64_t put, full;
  int64_t ok, late, replaced, dropped, failed;
  int64_t batches;
  int64_t waiting;
  int64_t overran, overran_ns;
  int64_t held_up, held_up_ns;
  double cost_a_ns, cost_b_ns;
  double cost_margin_ns;
  rta_loop_histogram batch;
  rta_loop_histogram queue_ns;
  rta_loop_histogram lateness_ns;
  rta_loop_histogram batch_took_ns;
} rta_batcher_stats;
typedef struct rta_batcher rta_batcher;
rta_batcher* rta_batcher_create(const rta_batcher_config* config) {}
int rta_batcher_start(rta_batcher* batcher) {}
void rta_batcher_stop(rta_batcher* batcher) {}
int rta_batcher_wait_stopped(rta_batcher* batcher, int64_t timeout_ns) {}
void rta_batcher_destroy(rta_batcher* batcher) {}
const char* rta_batcher_error_text(void) {}
const char* rta_batcher_refused(const rta_batcher* batcher) {}
int64_t rta_batcher_put(rta_batcher* batcher, int64_t stream, const void* x, int64_t stamp_ns) {}
void rta_batcher_put_many(rta_batcher* batcher, int64_t count, const int64_t* streams, const void* x,
                          const int64_t* stamps_ns, int64_t stamp_ns, int64_t* codes) {}
int rta_batcher_reset(rta_batcher* batcher, int64_t stream) {}
int rta_batcher_remove(rta_batcher* batcher, int64_t stream) {}
int rta_batcher_add(rta_batcher* batcher, int64_t stream) {}
int rta_batcher_wait(rta_batcher* batcher, int64_t ticket, int64_t timeout_ns) {}
int rta_batcher_take(rta_batcher* batcher, int64_t ticket, void* y, int64_t* lateness_ns) {}
void rta_batcher_leave(rta_batcher* batcher, int64_t ticket) {}
int rta_batcher_next(rta_batcher* batcher, int64_t timeout_ns, rta_batch* batch) {}
void rta_batcher_give_back(rta_batcher* batcher) {}
int64_t rta_batcher_turn(rta_batcher* batcher, int64_t now_ns, int64_t took_ns) {}
void rta_batcher_statistics(const rta_batcher* batcher, rta_batcher_stats* stats) {}
typedef enum {
  RTA_EXIT_NEVER = 0,
  RTA_EXIT_CONFIDENCE = 1,
  RTA_EXIT_MARGIN = 2,
  RTA_EXIT_ENTROPY = 3,
  RTA_EXIT_ENERGY = 4,
  RTA_EXIT_VALUE = 5,
  RTA_EXIT_CALL = 6
} rta_exit_test;
typedef int (*rta_exit_fn)(void* self, const float* y, int64_t width, float* score);
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
  rta_plan* head;
  int64_t in_bytes;
  int64_t out_bytes;
  int64_t streams;
  int advance;
  rta_exit exit;
} rta_cascade_stage;
typedef struct rta_cascade rta_cascade;
rta_cascade* rta_cascade_create(const rta_cascade_stage* stages, int count, int64_t width, int64_t max_rows) {}
void rta_cascade_destroy(rta_cascade* cascade) {}
int rta_cascade_reserve(rta_cascade* cascade, int64_t rows) {}
int rta_cascade_run(rta_cascade* cascade, const void* in, float* out, int64_t rows) {}
int rta_cascade_run_through(rta_cascade* cascade, const void* in, float* out, int64_t rows) {}
const int32_t* rta_cascade_exits(const rta_cascade* cascade) {}
const int64_t* rta_cascade_counts(const rta_cascade* cascade) {}
void rta_cascade_set_plan(rta_cascade* cascade, int stage, rta_plan* plan, rta_plan* head) {}
void rta_cascade_set_threshold(rta_cascade* cascade, int stage, float threshold) {}
int rta_cascade_deadline(rta_cascade* cascade, int64_t deadline_ns, const int64_t* cost_ns) {}
int64_t rta_cascade_late(const rta_cascade* cascade) {}
size_t rta_cascade_state_bytes(const rta_cascade* cascade) {}
void rta_cascade_save_state(const rta_cascade* cascade, void* to) {}
int rta_cascade_load_state(rta_cascade* cascade, const void* from) {}
void rta_cascade_reset(rta_cascade* cascade) {}
rta_step rta_cascade_step(rta_cascade* cascade, int64_t rows) {}
int rta_cascade_prefault(rta_cascade* cascade) {}
int rta_exit_scores(const rta_exit* exit, const float* y, int64_t width, int64_t rows, float* scores) {}
const char* rta_cascade_error(void) {}
typedef enum {
  RTA_DOOR_GONE = -5,
  RTA_DOOR_BAD = -6
} rta_door_error;
typedef struct {
  rta_batcher* batcher;
  const char* name;
  int64_t lanes, depth;
  char note[256];
} rta_door_config;
typedef struct {
  int64_t put;
  int64_t refused;
  int64_t answered;
  int64_t late_at_door;
  int64_t died, clients;
} rta_door_stats;
typedef struct rta_door rta_door;
typedef struct rta_door_client rta_door_client;
rta_door* rta_door_open(const rta_door_config* config) {}
void rta_door_close(rta_door* door) {}
void rta_door_statistics(const rta_door* door, rta_door_stats* stats) {}
rta_door_client* rta_door_connect(const char* name) {}
void rta_door_leave(rta_door_client* client) {}
const rta_door_config* rta_door_described(const rta_door_client* client) {}
void rta_door_sizes(const rta_door_client* client, int64_t* streams, size_t* in_bytes, size_t* out_bytes) {}
void rta_door_put(rta_door_client* client, int64_t n, const int64_t* streams, const void* x, const int64_t* stamps,
                  int64_t* handles) {}
int rta_door_wait(rta_door_client* client, int64_t handle, int64_t timeout_ns) {}
int rta_door_take(rta_door_client* client, int64_t handle, void* y, int64_t* lateness_ns) {}
void rta_door_forget(rta_door_client* client, int64_t handle) {}
typedef enum { RTA_WIRE_FLOAT32 = 0, RTA_WIRE_INT8 = 1, RTA_WIRE_INT64 = 2, RTA_WIRE_Q8 = 3, RTA_WIRE_Q4 = 4 } rta_wire;
typedef enum { RTA_FRAME_REQUEST = 1, RTA_FRAME_ANSWER = 2 } rta_frame_kind;
typedef enum {
  RTA_FRAME_OK = 0,
  RTA_FRAME_TRUNCATED = -1,
  RTA_FRAME_OVERSIZE = -2,
  RTA_FRAME_MAGIC = -3,
  RTA_FRAME_VERSION_OF = -4,
  RTA_FRAME_DIGEST = -5,
  RTA_FRAME_LAYOUT = -6,
  RTA_FRAME_MODEL = -7,
  RTA_FRAME_REPLAYED = -8,
  RTA_FRAME_REORDERED = -9,
  RTA_FRAME_SESSION = -10,
  RTA_FRAME_KIND = -11
} rta_frame_code;
typedef struct {
  uint64_t session;
  uint64_t sequence;
  int64_t stamp_ns;
  uint8_t model[16];
  uint16_t status;
  uint8_t kind;
} rta_frame_head;
typedef struct {
  void* data;
  size_t bytes;
  uint32_t dims[7];
  uint8_t wire, rank;
} rta_frame_tensor;
size_t rta_frame_tensor_bytes(const rta_frame_tensor* tensor) {}
size_t rta_frame_bytes(const rta_frame_tensor* tensors, int count) {}
int64_t rta_frame_write(void* out, size_t capacity, const rta_frame_head* head, const rta_frame_tensor* tensors,
                        int count, const uint8_t key[16]) {}
int rta_frame_parse(const void* frame, size_t size, const uint8_t key[16], rta_frame_head* head,
                    rta_frame_tensor* tensors, int* count) {}
void rta_frame_unpack(const rta_frame_tensor* tensor, void* out) {}
typedef struct {
  uint64_t session, newest;
} rta_frame_guard;
int rta_frame_admit(rta_frame_guard* guard, const rta_frame_head* head) {}
typedef struct {
  const rta_frame_tensor* tensors;
  int count;
  uint8_t model[16], key[16];
} rta_frame_end;
int rta_frame_read(const void* frame, size_t size, const rta_frame_end* end, int kind, uint64_t session,
                   rta_frame_guard* guard, rta_frame_head* head) {}
uint64_t rta_siphash(const void* data, size_t size, const uint8_t key[16]) {}
typedef struct rta_endpoint rta_endpoint;
typedef struct {
  rta_frame_end in;
  rta_frame_end out;
  rta_step_fn step;
  void* self;
  int64_t most_peers;
} rta_endpoint_config;
typedef struct {
  int64_t answered, failed;
  int64_t refused[16];
  int64_t peers;
} rta_endpoint_stats;
rta_endpoint* rta_endpoint_create(const rta_endpoint_config* config) {}
void rta_endpoint_destroy(rta_endpoint* endpoint) {}
size_t rta_endpoint_bytes(const rta_endpoint* endpoint, int answers) {}
int64_t rta_endpoint_answer(rta_endpoint* endpoint, const void* frame, size_t size, const void* peer, size_t peer_bytes,
                            void* out, size_t capacity) {}
void rta_endpoint_statistics(const rta_endpoint* endpoint, rta_endpoint_stats* stats) {}
typedef struct rta_gpu rta_gpu;
typedef struct {
  int64_t inputs, outputs;
  int blocks;
  int capability;
  int streams;
  const char* kernel;
} rta_gpu_about;
rta_gpu* rta_gpu_open(const char* path, const unsigned char* key, int device) {}
rta_gpu* rta_gpu_from_memory(const void* data, size_t size, const unsigned char* key, int device) {}
int rta_gpu_code(const char* folder) {}
void rta_gpu_close(rta_gpu* gpu) {}
int rta_gpu_start(rta_gpu* gpu) {}
int rta_gpu_step(rta_gpu* gpu, const float* x, float* y, int64_t timeout_ns) {}
void rta_gpu_reset(rta_gpu* gpu) {}
size_t rta_gpu_state_bytes(const rta_gpu* gpu) {}
int rta_gpu_save_state(rta_gpu* gpu, void* to) {}
int rta_gpu_load_state(rta_gpu* gpu, const void* from) {}
int rta_gpu_swap(rta_gpu* gpu, const char* path, const unsigned char* key) {}
void rta_gpu_describe(const rta_gpu* gpu, rta_gpu_about* about) {}
int rta_gpu_stored(const void* data, size_t size, int* capabilities, int most) {}
typedef struct {
  uint64_t seed;
  int64_t produce_ns;
  int64_t delay_ns;
  double p_gap;
  int64_t gap_ns;
  double p_burst;
  double p_reorder;
  double p_clock;
  int64_t clock_ns;
  int64_t wake_ns;
  double p_stall;
  int64_t stall_ns;
  int64_t step_ns;
  double p_slow;
  int64_t slow_ns;
  int64_t sleep_ns;
} rta_sim_config;
typedef struct {
  int64_t produced, lost, arrived, overtaken, future;
  int64_t gaps, bursts, clock_steps, stalls, slow_steps;
  int64_t cycles, stale, misses, skipped, fresh, waiting;
} rta_sim_counts;
typedef struct rta_sim rta_sim;
rta_sim* rta_sim_create(const rta_sim_config* config, rta_latest* slot) {}
int rta_sim_add(rta_sim* sim, const rta_sim_config* config, rta_latest* slot) {}
rta_loop_clock rta_sim_clock(rta_sim* sim) {}
void rta_sim_expect(rta_sim* sim, const rta_loop_config* loop) {}
rta_step rta_sim_step(rta_sim* sim, size_t bytes) {}
rta_step rta_sim_step_ports(rta_sim* sim, const rta_step_ports* ports) {}
rta_sim_counts rta_sim_counted(const rta_sim* sim) {}
void rta_sim_calm(rta_sim* sim) {}
void rta_sim_destroy(rta_sim* sim) {}
typedef enum { RTA_MAILBOX_DONE = 0, RTA_MAILBOX_TIMEOUT = 1 } rta_mailbox_status;
void rta_mailbox_put(uint64_t* to, uint32_t payload, uint32_t sequence) {}
rta_mailbox_status rta_mailbox_exchange(uint64_t* to, const uint32_t* request, int64_t request_words,
                                        const uint64_t* from, uint32_t* reply, int64_t reply_words, uint32_t sequence,
                                        int64_t timeout_ns) {}
void rta_mailbox_send(uint64_t* to, const uint32_t* request, int64_t request_words, uint32_t sequence) {}
int rta_mailbox_send_int8(uint64_t* to, const float* x, int64_t numbers, float inverse, int32_t zero_point,
                          uint32_t sequence) {}
rta_mailbox_status rta_mailbox_wait(const uint64_t* from, uint32_t* reply, int64_t reply_words, uint32_t sequence,
                                    int64_t timeout_ns) {}
rta_mailbox_status rta_mailbox_echo(const uint64_t* from, int64_t request_words, uint64_t* to, int64_t reply_words,
                                    uint32_t sequence, int64_t timeout_ns) {}
enum { RTA_ONLINE_OK = 0, RTA_ONLINE_REJECTED = 1, RTA_ONLINE_INVALID = -1 };
typedef struct rta_ud rta_ud;
rta_ud* rta_ud_create(int64_t features, int64_t outputs, float p0, float noise, float forget, float d_max) {}
void rta_ud_destroy(rta_ud* head) {}
int rta_ud_process_noise(rta_ud* head, const float* variances, int64_t every) {}
int rta_ud_learn(rta_ud* head, const float* phi, const float* y, float* prediction) {}
void rta_ud_predict(const rta_ud* head, const float* phi, float* prediction) {}
float rta_ud_variance(rta_ud* head, const float* phi) {}
int rta_ud_inflate(rta_ud* head, float factor) {}
void rta_ud_save(const rta_ud* head, float* u, float* d, float* w, int64_t counts[3]) {}
int rta_ud_load(rta_ud* head, const float* u, const float* d, const float* w, const int64_t counts[3]) {}
void rta_ud_counts(const rta_ud* head, int64_t counts[3]) {}
void rta_ud_weights(const rta_ud* head, float* w) {}
typedef enum {
  RTA_BANK_VALUE = 0,
  RTA_BANK_EWMA = 1,
  RTA_BANK_MIN = 2,
  RTA_BANK_MAX = 3,
  RTA_BANK_MEAN = 4,
  RTA_BANK_FIRST = 5,
  RTA_BANK_LAG = 6,
  RTA_BANK_SLOPE = 7,
  RTA_BANK_SEASON = 8,
  RTA_BANK_MINUS = 9
} rta_bank_kind;
typedef struct {
  int32_t kind, of, other;
  float rate;
  int32_t length;
} rta_bank_node;
typedef struct {
  int32_t node;
  float scale;
} rta_bank_output;
typedef struct rta_bank rta_bank;
rta_bank* rta_bank_create(int64_t streams, int64_t channels, const rta_bank_node* nodes, int node_count,
                          const rta_bank_output* outputs, int output_count) {}
void rta_bank_destroy(rta_bank* bank) {}
int64_t rta_bank_width(const rta_bank* bank) {}
void rta_bank_step(rta_bank* bank, const float* x, float* y) {}
void rta_bank_reset(rta_bank* bank, int64_t first, int64_t count) {}
void rta_bank_state_size(const rta_bank* bank, int64_t* floats, int64_t* integers) {}
void rta_bank_save(const rta_bank* bank, float* floats, uint32_t* integers) {}
void rta_bank_load(rta_bank* bank, const float* floats, const uint32_t* integers) {}
typedef struct rta_records rta_records;
rta_records* rta_records_create(int64_t streams, double range, double season, double jump) {}
void rta_records_destroy(rta_records* records) {}
void rta_records_score(rta_records* records, const double* values, double seconds, double* scores) {}
void rta_records_series(rta_records* records, int64_t stream, const double* values, const double* seconds,
                        int64_t count, double* scores) {}
void rta_records_reset(rta_records* records, int64_t first, int64_t count) {}
int64_t rta_records_missing(const rta_records* records, int64_t stream) {}
size_t rta_records_stream_bytes(void) {}
void rta_records_save(const rta_records* records, void* bytes) {}
int rta_records_load(rta_records* records, const void* bytes) {}
typedef struct rta_ftrl rta_ftrl;
typedef enum { RTA_FTRL_LOGISTIC = 0, RTA_FTRL_SQUARED = 1 } rta_ftrl_loss;
rta_ftrl* rta_ftrl_create(int64_t dimensions, float alpha, float beta, float l1, float l2, rta_ftrl_loss loss) {}
void rta_ftrl_destroy(rta_ftrl* head) {}
float rta_ftrl_predict(const rta_ftrl* head, const int64_t* indices, const float* values, int64_t count) {}
int rta_ftrl_learn(rta_ftrl* head, const int64_t* indices, const float* values, int64_t count, float y, float weight,
                   float* prediction) {}
void rta_ftrl_save(const rta_ftrl* head, float* z, float* n, int64_t counts[2]) {}
int rta_ftrl_load(rta_ftrl* head, const float* z, const float* n, const int64_t counts[2]) {}
int64_t rta_ftrl_weights(const rta_ftrl* head, float* w) {}
typedef struct rta_udp_server rta_udp_server;
rta_udp_server* rta_udp_serve(rta_endpoint* endpoint, int socket, int64_t spin_ns) {}
void rta_udp_stop(rta_udp_server* server) {}
int rta_udp_send(int socket, const void* frame, size_t size) {}
int64_t rta_udp_receive(int socket, void* into, size_t capacity, int64_t timeout_ns, int64_t spin_ns) {}
