// One form of recurrent.cu or window.cu: what config.py decided, and where everything lies in shared memory. The
// numbers come as definitions when a form is compiled; what stands here is LSTM_A of STAC-ML on one multiprocessor.
#pragma once

#ifndef RTA_WINDOW
#define RTA_WINDOW 0  // 1: a window whose layers run as a wavefront (window.cu); else a message after another
#endif

#ifndef RTA_GATES
#define RTA_GATES 4  // 4: LSTM, 3: GRU
#define RTA_LAYERS 2
#define RTA_INPUTS 100
#define RTA_HIDDEN 100
#define RTA_UNITS 100    // of each layer in a program; a multiple of 4
#define RTA_PROGRAMS 1   // blocks of the grid, all on the device at once
#define RTA_LANES 4      // threads that share a unit; a power of two
#define RTA_THREADS 416  // units * lanes, in whole warps
#define RTA_CLUSTER 0    // 1: the programs are a cluster, and exchange by their shared memory instead of L2
#define RTA_MAPPED 0  // 1: messages are in the card's memory, every program polls them, and one of them ends the kernel
#define RTA_POLLERS 0         // warps beside them that poll the mailbox; 0: the threads do it themselves
#define RTA_GROUP 0           // 0: int8 weights; else int4 ones, so many with one scale, a multiple of 32
#define RTA_KEPT 16           // steps whose weights are in registers
#define RTA_HELD 16           // further steps whose weights are in shared memory
#define RTA_OUTPUTS 1         // of a linear layer behind the stack
#define RTA_HEAD !RTA_WINDOW  // 0: there is none, and h is the answer
#define RTA_HEAD_HELD 1       // whether its weights are in shared memory
#define RTA_HEAD_GROUP 0
#define RTA_ACTIVATION 0
#define RTA_SHARED_BYTES 0  // 0: whatever it comes to
#define RTA_SPINS 1024      // looks at the mailbox between two at the word that ends the kernel
#define RTA_LOOKS 4194304   // looks for a word of another block before it is given up
#endif

constexpr int kGates = RTA_GATES, kLayers = RTA_LAYERS, kInputs = RTA_INPUTS, kHidden = RTA_HIDDEN;
constexpr int kUnits = RTA_UNITS, kPrograms = RTA_PROGRAMS, kLanes = RTA_LANES, kThreads = RTA_THREADS;
constexpr int kPollers = RTA_POLLERS, kAllThreads = kThreads + 32 * kPollers;
constexpr bool kCluster = RTA_CLUSTER, kMapped = RTA_MAPPED, kWindow = RTA_WINDOW;
constexpr int kGroup = RTA_GROUP, kKept = RTA_KEPT, kHeld = RTA_HELD;
constexpr int kOutputs = RTA_OUTPUTS, kHeadGroup = RTA_HEAD_GROUP;
constexpr bool kHead = RTA_HEAD, kHeadHeld = RTA_HEAD_HELD;

constexpr __host__ __device__ int ceil_div(int a, int b) { return (a + b - 1) / b; }

// A line is 16 bytes of weights of one unit and gate. A step is one line of every thread: thread (unit, lane) has line
// j * kLanes + lane. The lines of a vector fill whole steps, with zeros.
constexpr int kLineParams = kGroup ? 32 : 16;  // int8 numbers that a line is multiplied with
constexpr int kWide = kPrograms * kUnits;      // units, with those that are there to fill up
constexpr int kStepsX = ceil_div(kInputs, kLineParams* kLanes);
constexpr int kStepsH = ceil_div(kWide, kLineParams* kLanes);
constexpr int kBytesX = kStepsX * kLanes * kLineParams, kBytesH = kStepsH * kLanes * kLineParams;
constexpr int kSteps = kGates * (kStepsX + (2 * kLayers - 1) * kStepsH);
constexpr int kWordsX = ceil_div(kInputs, 4), kWordsH = kWide / 4, kWordsOwn = kUnits / 4;

// Rows of numbers, kUnits each: multipliers of x and of h, biases, for a GRU that of h in its third gate.
constexpr int kRows = 3 * kGates + (kGates == 3);
constexpr int kHeadLineParams = kHeadGroup ? 32 : 16;
constexpr int kHeadLines = ceil_div(kWide, kHeadLineParams);  // of one output
constexpr int kBytesY = kHeadLines * kHeadLineParams;
constexpr int kGroupsX = kGroup ? ceil_div(kInputs, kGroup ? kGroup : 1) : 0;
constexpr int kGroupsH = kGroup ? ceil_div(kHidden, kGroup ? kGroup : 1) : 0;
constexpr int kGroupsY = kHeadGroup ? ceil_div(kHidden, kHeadGroup ? kHeadGroup : 1) : 0;
constexpr int kScales = kGroup ? kGates * kUnits * (kGroupsX + (2 * kLayers - 1) * kGroupsH) : 0;

constexpr __host__ __device__ int up16(int bytes) { return (bytes + 15) / 16 * 16; }
constexpr int kWarps = kThreads / 32;
constexpr int kMostSteps = kStepsX > kStepsH ? kStepsX : kStepsH;
constexpr int kFoldLines = kGroup ? kMostSteps * kLanes : 0;  // of a unit's gate, while int4 sums are folded

// Weights in device memory, of one set; a second set of each lies behind it.
constexpr long long kSetWords = 1ll * kPrograms * kSteps * kThreads, kSetScales = 1ll * kPrograms * kScales;
constexpr int kSetParams = kPrograms * kLayers * kRows * kUnits, kSetCompensation = kPrograms * kGates * kUnits;
constexpr int kSetHeadWords = kHeadLines * kOutputs, kSetHeadParams = 2 * kOutputs + 1 + kOutputs * kGroupsY;

// Shared memory, in bytes from its beginning.
constexpr int kAtX = kHeld * kThreads * 16;
constexpr int kTurns = kPollers || kWindow ? 2 : 1;  // places for x: one for each of two messages, or of two time steps
constexpr int kTurnsH = kWindow ? 2 : 1;             // and for h: what all layers read, and what they write meanwhile
constexpr int kAtH = kAtX + kTurns * kBytesX;
constexpr int kAtY = kAtH + kTurnsH * kLayers * kBytesH;
constexpr int kAtParams = kAtY + (kHead ? up16(kBytesY) : 0);
constexpr int kAtCompensation = kAtParams + up16(4 * kLayers * kRows * kUnits);
constexpr int kAtBefore = kAtCompensation + up16(4 * kGates * kUnits);
constexpr int kAtStates = kAtBefore + (kWindow ? 0 : up16(4 * kLayers * kGates * kUnits));
constexpr int kAtScales = kAtStates + up16(2 * 4 * kLayers * kUnits);
constexpr int kAtFold = kAtScales + up16(4 * kScales);
constexpr int kAtHead = kAtFold + up16(4 * kGates * (kThreads / kLanes) * (kGroup ? kFoldLines + 1 : 0));
constexpr int kAtHeadFold = kAtHead + (kHead && kHeadHeld ? 16 * kHeadLines * kOutputs : 0);
constexpr int kAtFlags = kAtHeadFold + (kHead && kHeadGroup ? up16(4 * kWarps * kHeadLines) : 0);
constexpr int kAtPoll = kAtFlags + 32;
constexpr int kAtExchange = kAtPoll + (kPollers ? 16 : 0);

// The exchange, in words: two slots of every layer, of the head's input, and of x with its header. In device memory; of
// a cluster, each block has its own, at kAtExchange.
constexpr int kSlotH = kWordsH, kSlotX = kWordsX + 1;
constexpr int kExchangeY = 2 * kLayers * kSlotH, kExchangeX = kExchangeY + 2 * kSlotH;
constexpr int kExchangeWords = kWindow ? kExchangeY : kExchangeX + 2 * kSlotX;
constexpr int kSharedBytes = kAtExchange + (kCluster ? up16(8 * kExchangeWords) : 0);

static_assert(RTA_SHARED_BYTES == 0 || RTA_SHARED_BYTES == kSharedBytes, "config.py counts otherwise");
static_assert(kKept + kHeld <= kSteps, "more steps than there are");
static_assert(kUnits % 4 == 0 && kThreads % 32 == 0 && kUnits * kLanes <= kThreads, "threads do not fit the units");
static_assert(!kCluster || kPrograms > 1, "a cluster of one block");
static_assert(!kWindow || (kPollers == 0 && !kHead && kCluster == (kPrograms > 1)), "a window knows no host");
static_assert(!kMapped || kPollers == 0, "with messages in its memory each thread polls");
