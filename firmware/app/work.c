#include "work.h"

#include "bitship/kernels.h"
#include "crc.h"
#include "port.h"
#include "tiny.h"

#include <string.h>

uint8_t work_input[SERIAL_BUFFER];
int work_converted;

/* In an emulator the counter tells instructions: of all counts since the reset the exact one, whatever the
 * tick began with. */
static uint64_t now(void) {
#if defined(BITSHIP_COUNTER_NUMERATOR)
    return (port_ticks() * BITSHIP_COUNTER_NUMERATOR + (BITSHIP_COUNTER_DENOMINATOR - 1)) /
           BITSHIP_COUNTER_DENOMINATOR;
#else
    return port_ticks();
#endif
}

static uint32_t overhead, hook_overhead, resolution;
static int32_t stopped_behind = -1;
static uint64_t away; /* ticks spent on transport so far */

static struct {
    int32_t first, last;
    uint64_t since, away;
    uint64_t *ticks;
} watched;

/* The time since the last step goes to this one. */
static int tally(void *watcher, int32_t step, int whole) {
    const uint64_t here = now();
    const uint64_t taken = here - watched.since - (away - watched.away);
    const int32_t place = step - watched.first;
    (void)watcher;
    (void)whole;
    if (place >= 0 && place < WORK_PROFILED && taken > hook_overhead) {
        watched.ticks[place] += taken - hook_overhead;
    }
    watched.away = away;
    watched.since = now();
    return BITSHIP_OK;
}

static int stop(void *watcher, int32_t step, int whole) {
    (void)watcher;
    return whole && step == watched.last ? WORK_STOPPED : BITSHIP_OK;
}

static void watch(int32_t first, uint64_t *ticks) {
    watched.first = first;
    watched.ticks = ticks;
    watched.away = away;
    watched.since = now();
}

static uint32_t common_divisor(uint32_t a, uint32_t b) {
    while (b != 0) {
        const uint32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* The step of the counter is what all differences between readings are multiples of. */
static uint32_t counter_step(void) {
    uint32_t step = 0;
    const uint64_t start = now();
    for (uint32_t i = 0; i < 64; i++) {
        for (volatile uint32_t wait = i; wait > 0; wait--) {
        }
        if (i % 3 == 0) {
            __asm__ volatile("nop");
        }
        step = common_divisor((uint32_t)(now() - start), step);
    }
    return step;
}

void work_start(void) {
    uint64_t none[WORK_PROFILED] = {0};
    model_step volatile hook = tally;
    uint64_t least = UINT64_MAX;
    overhead = UINT32_MAX;
    hook_overhead = 0;
    for (int i = 0; i < 16; i++) {
        const uint64_t start = now();
        const uint32_t taken = (uint32_t)(now() - start);
        overhead = taken < overhead ? taken : overhead;
        watch(0, none);
        (void)hook(none, 0, 1);
        none[0] = 0;
        (void)hook(none, 0, 1);
        least = none[0] < least ? none[0] : least;
    }
    hook_overhead = (uint32_t)least;
    resolution = counter_step();
}

void work_anew(void) { port_ticks_start(); }

uint64_t work_ticks(void) { return now(); }

uint32_t work_overhead(void) { return overhead; }

uint32_t work_resolution(void) { return resolution; }

uint32_t work_output_crc(void) {
    uint32_t crc = 0;
    for (int i = 0; i < MODEL_OUTPUTS; i++) {
        crc = crc32(crc, model_output(i), model_output_bytes(i));
    }
    return crc;
}

#if MODEL_STREAMED
static uint32_t rows_crc;
static const uint8_t *golden; /* where rows come from instead of the link */

uint32_t work_input_crc(void) { return rows_crc; }

static int feed(void *context, int32_t first, int32_t rows, void *to) {
    const uint64_t start = now();
    const int32_t bytes = rows * MODEL_INPUT_0_ROW_BYTES;
    (void)context;
    int error = BITSHIP_OK;
    if (golden != (const uint8_t *)0) {
        memcpy(to, golden + first * MODEL_INPUT_0_ROW_BYTES, (size_t)bytes);
    } else {
        error = work_rows(first * MODEL_INPUT_0_ROW_BYTES, bytes, (uint8_t *)to);
    }
    rows_crc = crc32(rows_crc, to, bytes);
    away += now() - start + overhead;
    return error;
}

static void prepare(void) {
    rows_crc = 0;
    stopped_behind = -1;
}

#define RUN() model_run_rows(feed, (void *)0)
#define RUN_STEPS(hook) model_run_steps(feed, (void *)0, hook, (void *)0)
#else
uint32_t work_input_crc(void) {
    int32_t bytes = 0;
    for (int i = 0; i < MODEL_INPUTS; i++) {
        bytes += model_input_bytes(i);
    }
    return crc32(0, work_input, bytes);
}

static void prepare(void) {
    const uint8_t *from = work_input;
    stopped_behind = -1;
    if (work_converted) {
        tiny_convert(work_input, model_input(0));
        return;
    }
    for (int i = 0; i < MODEL_INPUTS; i++) {
        memcpy(model_input(i), from, (size_t)model_input_bytes(i));
        from += model_input_bytes(i);
    }
}

#define RUN() model_run()
#define RUN_STEPS(hook) model_run_steps(hook, (void *)0)
#endif

int32_t work_run(uint64_t *ticks) {
    prepare();
    away = 0;
    const uint64_t start = now();
    const int32_t error = RUN();
    const uint64_t taken = now() - start - away;
    *ticks = taken > overhead ? taken - overhead : 0;
    return error;
}

int32_t work_burst(int32_t runs, uint64_t *ticks) {
    int32_t error = BITSHIP_OK;
    prepare();
    const uint64_t start = now();
    for (int32_t i = 0; i < runs && error == BITSHIP_OK; i++) {
        if (i > 0 && !SERIAL_KEPT) {
            prepare();
        }
        error = RUN();
        (void)now();
    }
    *ticks = now() - start;
    return error;
}

int32_t work_prefix(int32_t last) {
    watched.last = last;
    prepare();
    const int32_t error = RUN_STEPS(stop);
    if (error != WORK_STOPPED) {
        return error;
    }
    stopped_behind = last;
    return BITSHIP_OK;
}

int32_t work_stopped_behind(void) { return stopped_behind; }

int32_t work_profile(int32_t first, uint64_t ticks[WORK_PROFILED]) {
    for (int i = 0; i < WORK_PROFILED; i++) {
        ticks[i] = 0;
    }
    prepare();
    watch(first, ticks);
    return RUN_STEPS(tally);
}

#if SERIAL_VECTORS
int32_t work_test(int32_t i, uint64_t *ticks, int *passed) {
    const uint8_t *vector = serial_vectors + i * (SERIAL_INPUT_BYTES + 4);
    const uint8_t *crc = vector + SERIAL_INPUT_BYTES;
    const uint32_t wanted = crc[0] | (uint32_t)crc[1] << 8 | (uint32_t)crc[2] << 16 | (uint32_t)crc[3] << 24;
#if MODEL_STREAMED
    golden = vector;
#else
    work_converted = 0;
    memcpy(work_input, vector, SERIAL_INPUT_BYTES);
#endif
    const int32_t error = work_run(ticks);
#if MODEL_STREAMED
    golden = (const uint8_t *)0;
#endif
    *passed = error == BITSHIP_OK && work_output_crc() == wanted;
    return error;
}
#endif
