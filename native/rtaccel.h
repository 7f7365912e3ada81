/* rtaccel in C: plans, models from a file, the freshest value, the loop, cascades, many streams, frames, GPUs. */
#ifndef RTACCEL_H
#define RTACCEL_H

#include "rta_batcher.h"
#include "rta_cascade.h"
#include "rta_door.h"
#include "rta_endpoint.h"
#include "rta_frame.h"
#include "rta_gpu.h"
#include "rta_latest.h"
#include "rta_loop.h"
#include "rta_loop_sim.h"
#include "rta_mailbox.h"
#include "rta_model.h"
#include "rta_online.h"
#include "rta_plan.h"
#include "rta_udp.h"
#include "rta_workers.h"

#endif
