/* The model at work: inputs kept, runs timed, steps looked at. What moves bytes is never inside a timed
 * window. */
#ifndef BITSHIP_WORK_H
#define BITSHIP_WORK_H

#include "model.h"
#include "serial_config.h"

#include <stdint.h>

/* What ticks are here, a second: of the counter, or instructions in an emulator. */
#if defined(BITSHIP_COUNTER_NUMERATOR)
#define WORK_HZ                                                                                              \
    ((uint32_t)((uint64_t)BITSHIP_COUNTER_HZ * BITSHIP_COUNTER_NUMERATOR / BITSHIP_COUNTER_DENOMINATOR))
#elif defined(BITSHIP_COUNTER_HZ)
#define WORK_HZ BITSHIP_COUNTER_HZ
#endif

#define WORK_STOPPED 1 /* a run ended where it was told to */
#define WORK_NO_ROWS 2 /* rows stopped coming */
#define WORK_PROFILED 32

/* All inputs one behind the other, as they came: a run may overwrite the model's own. Nothing where the image
 * is streamed. `work_converted`: they are what MLPerf Tiny's host sends, and become the model's on their way.
 */
extern uint8_t work_input[SERIAL_BUFFER];
extern int work_converted;

/* What a reading of the counter takes, and the counter's step, both in ticks. */
void work_start(void);

/* Begin a measurement: the counter starts anew. */
void work_anew(void);

/* The counter now. */
uint64_t work_ticks(void);
uint32_t work_overhead(void);
uint32_t work_resolution(void);

uint32_t work_input_crc(void);
uint32_t work_output_crc(void);

/* One run of the whole model, its ticks without readings, copies and transport; 0 or an error. */
int32_t work_run(uint64_t *ticks);

/* `runs` runs back to back, all between two readings; copies count where the model overwrites its inputs. */
int32_t work_burst(int32_t runs, uint64_t *ticks);

/* A run that stops behind step `last`: 0 when it got there. */
int32_t work_prefix(int32_t last);

/* The step that the last run stopped behind, -1 when it was a whole one. */
int32_t work_stopped_behind(void);

/* The ticks of steps [first, first + WORK_PROFILED) in one run, readings taken off. */
int32_t work_profile(int32_t first, uint64_t ticks[WORK_PROFILED]);

#if SERIAL_VECTORS
/* Golden vectors in flash, one behind the other: all inputs, then the crc of all outputs (little endian). */
extern const uint8_t serial_vectors[];

/* Runs vector i; 0 or an error, its ticks, and whether the outputs have the crc they should. */
int32_t work_test(int32_t i, uint64_t *ticks, int *passed);
#endif

#if MODEL_STREAMED
/* Given by whoever knows where rows come from: fill `bytes` from byte `first` of the image; 0 or not. */
int work_rows(int32_t first, int32_t bytes, uint8_t *to);
#endif

#endif
