/* What a generated model calls to run a command stream: hand the inputs over, run, take the outputs.
 *
 * A stream's memory is one buffer of the model's arena: what Vela calls scratch, and behind it its fast
 * scratch where it has one. Every function returns BITSHIP_OK or a negative enum bitship_error. */
#ifndef BITSHIP_NPU_STEP_H
#define BITSHIP_NPU_STEP_H

#include "bitship/kernels.h"

#ifndef BITSHIP_NPU_POLLS
#define BITSHIP_NPU_POLLS 100000000u /* questions until a stream counts as stopped: seconds */
#endif

/* A tensor at the border of a stream. flip: the graph's uint8, which the NPU has as int8 less 128. */
struct bitship_npu_border {
    int32_t offset; /* in the memory */
    int32_t bytes;
    int32_t flip;
};
int bitship_npu_put(const struct bitship_npu_border *p, const void *x, void *memory);
int bitship_npu_take(const struct bitship_npu_border *p, const void *memory, void *out);

/* A command stream: sizes in bytes, and which base address is what. fast lies at fast_offset. */
struct bitship_npu_stream {
    int32_t commands;
    int32_t weights;
    int32_t scratch;
    int32_t fast_offset;
    int32_t fast;
    int32_t weights_region;
    int32_t scratch_region;
    int32_t fast_region;
};
int bitship_npu_stream(const struct bitship_npu_stream *p, const void *commands, const void *weights,
                       void *memory);

/* A softmax_matmul whose product the NPU computes. codes: x [batch, rows, depth] to its codes less 128.
 * finish: those codes and the sums [batch, rows, columns] to the result. */
int bitship_npu_codes(const struct bitship_softmax_matmul *p, const int8_t *x, const uint8_t *exp_table,
                      int8_t *out);
int bitship_npu_finish(const struct bitship_softmax_matmul *p, const int8_t *codes, const int32_t *sums,
                       void *out);

#endif
