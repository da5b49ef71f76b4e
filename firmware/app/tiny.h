/* MLPerf Tiny's side of the model: what its host sends as inputs, what it reads as results. */
#ifndef BITSHIP_TINY_H
#define BITSHIP_TINY_H

#include <stdint.h>

/* SERIAL_INPUT: how the bytes of `db` become the input. */
#define TINY_AS_IS 0
#define TINY_UNSIGNED 1 /* unsigned pixels; the input is signed */
#define TINY_FLOAT 2    /* IEEE single precision; the input is quantized */

/* Make the model's input from work_input. */
void tiny_convert(const uint8_t *from, void *to);

/* m-results-[...]: the first output's real values, or for ad01 the mean squared difference to the input. */
void tiny_results(void);

#endif
