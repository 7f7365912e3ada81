/* The step of RLS + L1 in C, for a loop: Controller of control.py with the same arithmetic in double, RLS and basis in
 * float. The basis is a file of rt.save; the numbers come from control.py.
 */
#define _GNU_SOURCE /* clock_gettime */
#include <math.h>
#include <stdlib.h>
#include <time.h>

#include "rtaccel.h"

enum { MAX_FEATURES = 256 };

/* As control_create is given them: of control.py and plant.py. */
typedef struct {
  double position, velocity, tilt, rate, bandwidth, most, dt, gravity, mass, inertia, lag, forget, p0, d_max;
} params;

typedef struct {
  params n;
  rta_model* basis;
  rta_ud* head;
  double thrust, rest[2], d[2];
  float state[4], phi[MAX_FEATURES], target[2], learned[2];
} control;

void control_destroy(control* c) {
  if (!c) return;
  rta_ud_destroy(c->head);
  rta_model_close(c->basis);
  free(c);
}

control* control_create(const char* basis, const params* n) {
  control* c = calloc(1, sizeof *c);
  rta_tensor out;
  if (!c) return NULL;
  c->n = *n;
  c->thrust = n->mass * n->gravity;
  c->basis = rta_model_open(basis, 0);
  if (!c->basis || rta_model_tensor(c->basis, 1, 0, &out) != 0 || out.sample_elements > MAX_FEATURES ||
      !(c->head =
            rta_ud_create(out.sample_elements, 2, (float)n->p0, (float)n->forget, (float)n->forget, (float)n->d_max))) {
    control_destroy(c);
    return NULL;
  }
  rta_model_prefault(c->basis);
  return c;
}

static double now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

/* How often a thread that only reads the clock is stopped for longer than `limit` us, in so many us. */
long clock_stops(double limit, double us) {
  const double end = now_us() + us;
  double last = now_us();
  long stops = 0;
  while (last < end) {
    const double t = now_us();
    stops += t - last > limit;
    last = t;
  }
  return stops;
}

static double bounded(double v, double most) { return v < -most ? -most : v > most ? most : v; }

/* in[0]: x, z, vx, vz, tilt, rate, ax, az, then position, velocity, acceleration and jerk of the reference; float [16].
 * out[0]: thrust and torque, float [2]. */
int control_step(void* self, const void* const* in, void* const* out) {
  control* c = self;
  const params* n = &c->n;
  const float *s = in[0], *want = s + 8;
  float* commands = out[0];
  const double tilt = s[4], sine = sin(tilt), cosine = cos(tilt), lift = c->thrust / n->mass;
  const double d[2] = {s[6] - lift * sine, s[7] - lift * cosine + n->gravity};
  if (isfinite(d[0]) && isfinite(d[1])) { /* else the last estimate holds */
    const void* from = c->state;
    void* to = c->phi;
    c->state[0] = s[2], c->state[1] = s[3], c->state[2] = s[4], c->state[3] = (float)(lift - n->gravity);
    c->target[0] = (float)d[0], c->target[1] = (float)d[1];
    if (rta_model_step(c->basis, &from, &to, 1) != 0 || rta_ud_learn(c->head, c->phi, c->target, c->learned) < 0)
      return -1;
    for (int i = 0; i < 2; ++i) {
      c->rest[i] += n->dt * n->bandwidth * (d[i] - c->learned[i] - c->rest[i]);
      c->d[i] = bounded(c->learned[i] + c->rest[i], n->most);
    }
  }
  const double cx = want[4] + n->position * (want[0] - s[0]) + n->velocity * (want[2] - s[2]) - c->d[0];
  const double cz = want[5] + n->position * (want[1] - s[1]) + n->velocity * (want[3] - s[3]) - c->d[1] + n->gravity;
  const double thrust = n->mass * (cx * sine + cz * cosine);
  const double turn = (want[6] * cz - cx * want[7]) / (cx * cx + cz * cz);
  commands[0] = (float)thrust;
  commands[1] = (float)(n->inertia * (n->tilt * (atan2(cx, cz) - tilt) + n->rate * (turn - s[5])));
  c->thrust += n->dt / n->lag * (thrust - c->thrust);
  return 0;
}
