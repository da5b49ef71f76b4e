/* Integer kernels of bitship: C99, no heap, no float, no stdio; the caller owns all memory.
 *
 * One function per op of the integer graph. Every function
 *   - takes its parameters first (constant, may live in flash), then operands, scratch where there is any,
 * output;
 *   - checks its arguments and returns BITSHIP_OK, or a negative enum bitship_error with the output
 * untouched;
 *   - relies on the range proof of `verify` for accumulators: it does not check sums at run time.
 * Tensors are dense, row-major, NHWC. Extents count elements. Tensors of 2 and 4 byte elements are aligned to
 * them. The block between the two cffi marks is plain C that Python parses: no macros, no includes, no
 * expressions.
 */
#ifndef BITSHIP_KERNELS_H
#define BITSHIP_KERNELS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* cffi: begin */

enum bitship_error {
    BITSHIP_OK = 0,
    BITSHIP_ERROR_ARGUMENT = -1,    /* a null pointer, an extent below 1, a parameter outside its range */
    BITSHIP_ERROR_UNSUPPORTED = -2, /* a combination of dtypes this kernel does not have */
    BITSHIP_ERROR_SCRATCH = -3,     /* scratch is smaller than the op's scratch_bytes */
    BITSHIP_ERROR_CANARY = -4,      /* a debug build of a package: bytes beside the arena were written */
    BITSHIP_ERROR_NPU_ABSENT = -5,  /* a step is the NPU's, and no driver is linked or no NPU is free */
    BITSHIP_ERROR_NPU_FAILED = -6   /* the NPU's driver refused a command stream, or it did not end */
};

enum bitship_dtype {
    BITSHIP_BOOL = 0, /* one byte, 0 or 1 */
    BITSHIP_INT8 = 1,
    BITSHIP_UINT8 = 2,
    BITSHIP_INT16 = 3,
    BITSHIP_INT32 = 4
};

enum bitship_rounding { BITSHIP_SINGLE = 0, BITSHIP_DOUBLE = 1 };
enum bitship_division { BITSHIP_HALF_AWAY = 0, BITSHIP_HALF_UP = 1 };
enum bitship_reduction {
    BITSHIP_REDUCE_SUM = 0,
    BITSHIP_REDUCE_MAX = 1,
    BITSHIP_REDUCE_MIN = 2,
    BITSHIP_REDUCE_ANY = 3
};

/* clamp(round((x - input_zero_point) * 2^pre_shift * multiplier * 2^(shift - 31)) + output_zero_point).
 * multiplier Q31 >= 0, shift in [-31, 30], count entries each: 1, or one per index of the last axis.
 * dtype is the output's. As an epilogue the input is an int32 accumulator; a NULL epilogue stores int32. */
struct bitship_rescale {
    const int32_t *multiplier;
    const int8_t *shift;
    int32_t count;
    int32_t input_zero_point;
    int32_t output_zero_point;
    int32_t pre_shift;
    int32_t rounding;
    int32_t dtype;
    int32_t qmin;
    int32_t qmax;
};

/* A convolution, a pool or a fully connected layer (batch rows as width, everything else 1). */
struct bitship_window {
    int32_t x_dtype;
    int32_t batch;
    int32_t in_h;
    int32_t in_w;
    int32_t in_c;
    int32_t out_h;
    int32_t out_w;
    int32_t out_c;
    int32_t kernel_h;
    int32_t kernel_w;
    int32_t stride_h;
    int32_t stride_w;
    int32_t dilation_h;
    int32_t dilation_w;
    int32_t pad_top;
    int32_t pad_left;
    int32_t groups;
    int32_t tile; /* conv2d: output pixels gathered at once, 1, 2 or 8; more scratch, fewer weight passes */
    int32_t input_zero_point;
    int32_t weight_zero_point;
    int32_t weight_group; /* conv2d_int4: inputs that share a multiplier, even; 0: none do */
    int32_t division;     /* avg_pool2d: enum bitship_division */
    int32_t qmin;         /* pools: output range */
    int32_t qmax;
    const struct bitship_rescale *requant;
};

/* x [N, H, W, C] int8 or int16 (then input_zero_point is 0); w [O, KH, KW, C / groups] int8; bias [O] int32;
 * out [N, OH, OW, O]. tile 8 suits a vectorising compiler, tile 2 a microcontroller, tile 1 a single pixel.
 */
int32_t bitship_conv2d_scratch_bytes(const struct bitship_window *p);
int bitship_conv2d(const struct bitship_window *p, const void *x, const int8_t *w, const int32_t *bias,
                   void *scratch, int32_t scratch_bytes, void *out);
/* The same on weights of four bits: for every channel its groups' multipliers (uint8), then two codes a byte,
 * the first in the low half, the last byte full. scratch: two patches, or one, of int16, even in length. */
int bitship_conv2d_int4(const struct bitship_window *p, const void *x, const void *w, const int32_t *bias,
                        void *scratch, int32_t scratch_bytes, void *out);

/* x [N, H, W, C] int8 or int16; w [KH, KW, C, M] int8; bias [C * M] int32; out [N, OH, OW, C * M], out_c = C
 * * M. */
int bitship_depthwise_conv2d(const struct bitship_window *p, const void *x, const int8_t *w,
                             const int32_t *bias, void *out);

/* x [N, H, W, C] int8 or int16; out has x's dtype. Padding is not counted. */
int bitship_avg_pool2d(const struct bitship_window *p, const void *x, void *out);
int bitship_max_pool2d(const struct bitship_window *p, const void *x, void *out);

/* x [rows, depth] int8 or int16; w [channels, depth] int8; out [rows, channels]. The bias has the input's
 * zero point in it: bias[o] - input_zero_point * sum over k of (w[o, k] - weight_zero_point), modulo 2^32. */
struct bitship_fully_connected {
    int32_t x_dtype;
    int32_t rows;
    int32_t depth;
    int32_t channels;
    int32_t weight_zero_point;
    const struct bitship_rescale *requant;
};
int bitship_fully_connected(const struct bitship_fully_connected *p, const void *x, const int8_t *w,
                            const int32_t *bias, void *out);

/* a [B, M, K] int8 or int16; b [B, K, N] int8; out [B, M, N]. */
struct bitship_matmul {
    int32_t a_dtype;
    int32_t batch;
    int32_t rows;
    int32_t depth;
    int32_t columns;
    int32_t a_zero_point;
    int32_t b_zero_point;
    const struct bitship_rescale *requant;
};
int bitship_matmul(const struct bitship_matmul *p, const void *a, const int8_t *b, void *out);

/* x bool, int8, uint8, int16 or int32, rows * channels elements; channels is the last axis. */
struct bitship_rescale_op {
    int32_t x_dtype;
    int32_t rows;
    int32_t channels;
    const struct bitship_rescale *requant;
};
int bitship_rescale(const struct bitship_rescale_op *p, const void *x, void *out);

/* Two operands that broadcast: out has `shape`; a step is an operand's element distance along an axis, 0 to
 * repeat. a, b, out of int8, int16 or int32; rescale_a and rescale_b (add and sub, each may be NULL) give
 * int32. */
struct bitship_binary {
    int32_t a_dtype;
    int32_t b_dtype;
    int32_t shape[6];
    int32_t a_step[6];
    int32_t b_step[6];
    int32_t a_zero_point;
    int32_t b_zero_point;
    const struct bitship_rescale *rescale_a;
    const struct bitship_rescale *rescale_b;
    const struct bitship_rescale *requant;
};
int bitship_add(const struct bitship_binary *p, const void *a, const void *b, void *out);
int bitship_sub(const struct bitship_binary *p, const void *a, const void *b, void *out);
int bitship_mul(const struct bitship_binary *p, const void *a, const void *b, void *out);

/* One output element from one input element; `amount` and `half_up` are the shifts', qmin and qmax clamp's.
 */
struct bitship_unary {
    int32_t x_dtype;
    int32_t out_dtype;
    int32_t size;
    int32_t amount;
    int32_t half_up;
    int32_t qmin;
    int32_t qmax;
};
int bitship_clamp(const struct bitship_unary *p, const void *x, void *out);
int bitship_cast(const struct bitship_unary *p, const void *x, void *out);
int bitship_logical_left_shift(const struct bitship_unary *p, const void *x, void *out);
int bitship_arithmetic_right_shift(const struct bitship_unary *p, const void *x, void *out);
/* x int8, table 256 entries of out_dtype (int8 or int16): out = table[x + 128].
 * x int16, table 513 entries of int16: between entries (x + 32768) / 128 and the next, interpolated. */
int bitship_table(const struct bitship_unary *p, const void *x, const void *table, void *out);

/* x of `shape`, reduced along every axis whose `reduced` is 1, which stay as extent 1.
 * sum: int8, int16, int32, epilogue allowed; max, min: the dtype is kept; any: bool. */
struct bitship_reduce {
    int32_t x_dtype;
    int32_t reduction;
    int32_t shape[6];
    int32_t reduced[6];
    int32_t input_zero_point;
    const struct bitship_rescale *requant;
};
int bitship_reduce(const struct bitship_reduce *p, const void *x, void *out);

/* x [outer, extent, inner] int8, int16 or int32; out [outer, inner] int32: the first index of the largest. */
struct bitship_argmax {
    int32_t x_dtype;
    int32_t outer;
    int32_t extent;
    int32_t inner;
};
int bitship_argmax(const struct bitship_argmax *p, const void *x, void *out);

/* Elements of `item_bytes` (1, 2, 4 or 8): out[i] = x[offset + sum of i * step]. Slice and transpose. */
struct bitship_strided {
    int32_t item_bytes;
    int32_t offset;
    int32_t shape[6];
    int32_t step[6];
};
int bitship_slice(const struct bitship_strided *p, const void *x, void *out);
int bitship_transpose(const struct bitship_strided *p, const void *x, void *out);

/* x of `shape`, `before` and `after` elements of `value` on each axis; item_bytes 1, 2, 4 or 8. */
struct bitship_pad {
    int32_t item_bytes;
    int32_t shape[6];
    int32_t before[6];
    int32_t after[6];
    int32_t value;
};
int bitship_pad(const struct bitship_pad *p, const void *x, void *out);

/* One operand of a concat: `outer` runs of run_bytes, put out_step_bytes apart from out_offset_bytes on. */
struct bitship_concat {
    int32_t outer;
    int32_t run_bytes;
    int32_t out_offset_bytes;
    int32_t out_step_bytes;
};
int bitship_concat(const struct bitship_concat *p, const void *x, void *out);

/* Reshape: `bytes` bytes as they are; x and out may be the same memory. */
struct bitship_copy {
    int32_t bytes;
};
int bitship_reshape(const struct bitship_copy *p, const void *x, void *out);

/* x [outer, extent, inner_bytes], indices [count] int32 clamped to the extent; out [outer, count,
 * inner_bytes]. */
struct bitship_gather {
    int32_t outer;
    int32_t extent;
    int32_t count;
    int32_t inner_bytes;
};
int bitship_gather(const struct bitship_gather *p, const void *x, const int32_t *indices, void *out);

/* Output row y mixes input rows row_lo[y] and row_hi[y]; row_weight[y] / 2^bits is the second's share.
 * Columns alike. x [N, H, W, C] int8 or int16, bits 0 to 11. */
struct bitship_resize {
    int32_t x_dtype;
    int32_t batch;
    int32_t in_h;
    int32_t in_w;
    int32_t channels;
    int32_t out_h;
    int32_t out_w;
    int32_t bits;
    const int32_t *row_lo;
    const int32_t *row_hi;
    const int32_t *row_weight;
    const int32_t *column_lo;
    const int32_t *column_hi;
    const int32_t *column_weight;
};
int bitship_resize(const struct bitship_resize *p, const void *x, void *out);

/* x [rows, channels] int8, channels <= 4095; exp_table [256] int32, Q0.31; out int8, scale 1/256, zero point
 * -128. */
struct bitship_softmax {
    int32_t rows;
    int32_t channels;
};
int bitship_softmax(const struct bitship_softmax *p, const int8_t *x, const int32_t *exp_table, int8_t *out);

/* x [rows, channels] int8 or int16; multiplier, bias [period] int32, period divides channels; out int8 or
 * int16. z is the normalised value, Q20 (layer_norm, rms_norm) or as I-ViT has it (i_layer_norm):
 * out = clamp(((z * multiplier + (bias << (shift - 16)) + 2^(shift - 1)) >> shift) + output_zero_point). */
struct bitship_norm {
    int32_t x_dtype;
    int32_t out_dtype;
    int32_t rows;
    int32_t channels;
    int32_t period;
    int32_t shift;            /* 16 to 62 */
    int32_t input_zero_point; /* rms_norm */
    int32_t output_zero_point;
    int32_t qmin;
    int32_t qmax;
    int64_t epsilon; /* layer_norm and rms_norm: channels^2 times the variance's, below 2^61 */
};
int bitship_layer_norm(const struct bitship_norm *p, const void *x, const int32_t *multiplier,
                       const int32_t *bias, void *out);
int bitship_rms_norm(const struct bitship_norm *p, const void *x, const int32_t *multiplier,
                     const int32_t *bias, void *out);
int bitship_i_layer_norm(const struct bitship_norm *p, const void *x, const int32_t *multiplier,
                         const int32_t *bias, void *out);

/* x [rows, channels] int8, channels <= 65535; exp_table [256] int16, never negative; out int16, scale 2^-15.
 * masked: -128 takes no part. */
struct bitship_table_softmax {
    int32_t rows;
    int32_t channels;
    int32_t masked;
};
int bitship_table_softmax(const struct bitship_table_softmax *p, const int8_t *x, const int16_t *exp_table,
                          int16_t *out);

/* x [batch, rows, depth] int8; v [batch, depth, columns] int8; exp_table [256] uint8; out [batch, rows,
 * columns] int8 or int16. requant rounds once. tile: rows whose codes are held at once, 1 to 8. */
struct bitship_softmax_matmul {
    int32_t batch;
    int32_t rows;
    int32_t depth;
    int32_t columns;
    int32_t v_zero_point;
    int32_t masked;
    int32_t tile;
    const struct bitship_rescale *requant;
};
int32_t bitship_softmax_matmul_scratch_bytes(const struct bitship_softmax_matmul *p);
int bitship_softmax_matmul(const struct bitship_softmax_matmul *p, const int8_t *x, const int8_t *v,
                           const uint8_t *exp_table, void *scratch, int32_t scratch_bytes, void *out);

/* x [rows, channels] int8. below[d] is ShiftExp(-d) for d in 0..255; shiftgelu: zero[m + 128] is ShiftExp(-m)
 * for a row's maximum m in -128..127. shiftmax: out int16, scale 2^-15; shiftgelu: out x times its gate,
 * int32 or as requant says. */
struct bitship_shift_exp {
    int32_t rows;
    int32_t channels;
    int32_t masked; /* shiftmax: what an element of code -128 counts instead, 0: as any other */
    const int32_t *below;
    const int32_t *zero;
    const struct bitship_rescale *requant;
};
int bitship_shiftmax(const struct bitship_shift_exp *p, const int8_t *x, int16_t *out);
int bitship_shiftgelu(const struct bitship_shift_exp *p, const int8_t *x, void *out);

/* Kernels for Arm's DSP extension. Parameters are checked when they are made, not at run time. Weights are
 * packed ahead of time, per channel: bias, weights, and unless the epilogue is RAW multiplier m, offset c and
 * shift s. FLOOR gives int8, clamp((c + (acc * m >> 32)) >> s). So does DOUBLE, gemmlowp's two roundings:
 * clamp((c + (acc < 0 ? -1 : 0) + ((2 * acc * m + 2^31) >> 32)) >> s). WIDE gives int16, as FLOOR of
 * acc << (s >> 8), shifted by s & 255. RAW leaves int32 to `requant` (NULL: as it is). */
enum bitship_dsp_epilogue {
    BITSHIP_DSP_FLOOR = 0,
    BITSHIP_DSP_DOUBLE = 1,
    BITSHIP_DSP_RAW = 2,
    BITSHIP_DSP_WIDE = 3 /* conv2d */
};

/* int8 or int16: these cost twice the flash and fewer instructions, and have no zero point left. Four bits:
 * half the flash; whose sums are sixteen times too large, which bias and epilogue make up for. */
enum bitship_dsp_weights { BITSHIP_DSP_BYTES = 0, BITSHIP_DSP_HALVES = 1, BITSHIP_DSP_NIBBLES = 2 };

/* x [N, H, W, C] int8; out [N, OH, OW, O]. scratch: patches of four pixels, or one. */
struct bitship_dsp_conv2d {
    int32_t batch;
    int32_t in_h;
    int32_t in_w;
    int32_t in_c;
    int32_t out_h;
    int32_t out_w;
    int32_t out_c;
    int32_t kernel_h;
    int32_t kernel_w;
    int32_t stride_h;
    int32_t stride_w;
    int32_t dilation_h;
    int32_t dilation_w;
    int32_t pad_top;
    int32_t pad_left;
    int32_t input_zero_point; /* what the padding reads; the bias takes it off */
    int32_t epilogue;         /* enum bitship_dsp_epilogue */
    int32_t weights;          /* enum bitship_dsp_weights; depthwise: HALVES */
    int32_t group;            /* NIBBLES: inputs that share a multiplier, a multiple of 8; 0: all, none */
    const struct bitship_rescale *requant;
};
int bitship_dsp_conv2d(const struct bitship_dsp_conv2d *p, const int8_t *x, const void *weights,
                       void *scratch, int32_t scratch_bytes, void *out);
/* NIBBLES; scratch has room for patches of whole pairs of quads (src/dsp/int4.c). */
int bitship_dsp_conv2d_int4(const struct bitship_dsp_conv2d *p, const int8_t *x, const void *weights,
                            void *scratch, int32_t scratch_bytes, void *out);

/* x [4 * quads] int8; out [channels] int8; FLOOR or DOUBLE. */
struct bitship_dsp_dense {
    int32_t quads;
    int32_t channels;
    int32_t epilogue;
};
int bitship_dsp_fully_connected(const struct bitship_dsp_dense *p, const int8_t *x, const void *weights,
                                int8_t *out);

/* Multiplier 1: out_c is in_c, at least 4; at most 81 taps. scratch: in_c bytes, a row of zero points. */
int bitship_dsp_depthwise_conv2d(const struct bitship_dsp_conv2d *p, const int8_t *x, const void *weights,
                                 void *scratch, int32_t scratch_bytes, void *out);

/* x [N, H, W, C] int8. Padding is not counted. */
int bitship_dsp_avg_pool2d(const struct bitship_window *p, const int8_t *x, int8_t *out);
int bitship_dsp_max_pool2d(const struct bitship_window *p, const int8_t *x, int8_t *out);

/* x [outer, count, inner] int8; out [outer, inner] int8: the epilogue of `added` + the sum over count. */
struct bitship_dsp_sums {
    int32_t outer;
    int32_t count;
    int32_t inner;
    int32_t added;
    int32_t epilogue;
    int32_t multiplier;
    int32_t offset;
    int32_t shift;
};
int bitship_dsp_reduce_sum(const struct bitship_dsp_sums *p, const int8_t *x, int8_t *out);

/* `rows` rows of `columns` int8; a row of an operand begins a_row or b_row elements behind the one before, 0
 * to repeat it. */
struct bitship_dsp_pairs {
    int32_t rows;
    int32_t columns;
    int32_t a_row;
    int32_t b_row;
    int32_t a; /* factor, or (mul) zero point */
    int32_t b;
    int32_t epilogue; /* mul, sum_tables: enum bitship_dsp_epilogue */
    int32_t multiplier;
    int32_t offset;
    int32_t shift;
    int32_t qmin; /* sum */
    int32_t qmax;
};
/* clamp((a * p->a + b * p->b + offset) >> shift): add, or sub. */
int bitship_dsp_sum(const struct bitship_dsp_pairs *p, const int8_t *a, const int8_t *b, int8_t *out);
/* The epilogue of tables[a + 128] + tables[b + 384], 512 entries. */
int bitship_dsp_sum_tables(const struct bitship_dsp_pairs *p, const int8_t *a, const int8_t *b,
                           const int32_t *tables, int8_t *out);
/* The epilogue of (a - p->a) * (b - p->b). */
int bitship_dsp_mul(const struct bitship_dsp_pairs *p, const int8_t *a, const int8_t *b, int8_t *out);

/* int16: clamp((offset + (sum * multiplier >> 32)) >> shift) of ((a << a_left) * p->a + 2^31) >> 32 and b's
 * alike. */
struct bitship_dsp_sum16 {
    int32_t size;
    int32_t a;
    int32_t b;
    int32_t a_left;
    int32_t b_left;
    int32_t multiplier;
    int32_t offset;
    int32_t shift;
};
int bitship_dsp_sum16(const struct bitship_dsp_sum16 *p, const int16_t *a, const int16_t *b, int16_t *out);

/* a [B, M, K] int8; b [B, K, N] int8, computed; out [B, M, N]. scratch: b packed, then patches of four rows
 * of a. */
struct bitship_dsp_matmul {
    int32_t batch;
    int32_t rows;
    int32_t depth;
    int32_t columns;
    int32_t a_zero_point;
    int32_t b_zero_point;
    int32_t epilogue; /* enum bitship_dsp_epilogue, its numbers, and what is added to every sum before */
    int32_t added;
    int32_t multiplier;
    int32_t offset;
    int32_t shift;
    const struct bitship_rescale *requant;
};
int bitship_dsp_matmul(const struct bitship_dsp_matmul *p, const int8_t *a, const int8_t *b, void *scratch,
                       int32_t scratch_bytes, void *out);
/* As bitship_softmax_matmul. scratch: v packed, four rows' codes as patches, one row's as bytes. */
int bitship_dsp_softmax_matmul(const struct bitship_softmax_matmul *p, const int8_t *x, const int8_t *v,
                               const uint8_t *exp_table, void *scratch, int32_t scratch_bytes, void *out);

/* The host's library alone: convolutions whose weights are packed once for this processor's instructions, the
 * same bits. A level is 0 (none), 1 (AVX2) or 2 (AVX512-VNNI too); any up to bitship_host_level() may be
 * asked for. packed_bytes is 0 where a layer has no packed form. Packed weights are private to one library
 * and processor. */
int32_t bitship_host_level(void);
int32_t bitship_host_conv2d_packed_bytes(int32_t level, const struct bitship_window *p);
int32_t bitship_host_conv2d_scratch_bytes(int32_t level, const struct bitship_window *p);
int bitship_host_conv2d_pack(int32_t level, const struct bitship_window *p, const int8_t *w,
                             const int32_t *bias, void *out);
int bitship_host_conv2d(const struct bitship_window *p, const void *x, const void *packed, void *scratch,
                        int32_t scratch_bytes, void *out);
int32_t bitship_host_depthwise_conv2d_packed_bytes(int32_t level, const struct bitship_window *p);
int32_t bitship_host_depthwise_conv2d_scratch_bytes(int32_t level, const struct bitship_window *p);
int bitship_host_depthwise_conv2d_pack(int32_t level, const struct bitship_window *p, const int8_t *w,
                                       const int32_t *bias, void *out);
int bitship_host_depthwise_conv2d(const struct bitship_window *p, const void *x, const void *packed,
                                  void *scratch, int32_t scratch_bytes, void *out);

/* Computed products: b is packed at run time into scratch, `pack` prepares the epilogue alone. */
int32_t bitship_host_matmul_packed_bytes(int32_t level, const struct bitship_matmul *p);
int32_t bitship_host_matmul_scratch_bytes(int32_t level, const struct bitship_matmul *p);
int bitship_host_matmul_pack(int32_t level, const struct bitship_matmul *p, void *out);
int bitship_host_matmul(const struct bitship_matmul *p, const void *a, const int8_t *b, const void *packed,
                        void *scratch, int32_t scratch_bytes, void *out);
int32_t bitship_host_softmax_matmul_packed_bytes(int32_t level, const struct bitship_softmax_matmul *p);
int32_t bitship_host_softmax_matmul_scratch_bytes(int32_t level, const struct bitship_softmax_matmul *p);
int bitship_host_softmax_matmul_pack(int32_t level, const struct bitship_softmax_matmul *p, void *out);
int bitship_host_softmax_matmul(const struct bitship_softmax_matmul *p, const int8_t *x, const int8_t *v,
                                const uint8_t *exp_table, const void *packed, void *scratch,
                                int32_t scratch_bytes, void *out);

/* Kernels for Armv8.1-M's vector extension (src/mve). Parameters are proven when a program is made: these
 * functions check nothing, and their constants are packed ahead of time.
 *
 * How a sum becomes an int8: by the multiplier's high half, rounded (DOUBLE) or not (SINGLE), then a rounding
 * right shift. DOUBLE_UP leaves out what half away from zero takes below zero: qmin is at least the zero
 * point. The general two take any shift. */
enum bitship_mve_rounding {
    BITSHIP_MVE_SINGLE = 0,
    BITSHIP_MVE_DOUBLE_UP = 1,
    BITSHIP_MVE_DOUBLE = 2,
    BITSHIP_MVE_SINGLE_ANY = 4,
    BITSHIP_MVE_DOUBLE_ANY = 5
};

/* As struct bitship_window, int8 to int8; in_h, out_h and pad_top may change from call to call. */
struct bitship_mve_window {
    int32_t batch;
    int32_t in_h;
    int32_t in_w;
    int32_t in_c;
    int32_t out_h;
    int32_t out_w;
    int32_t out_c;
    int32_t kernel_h;
    int32_t kernel_w;
    int32_t stride_h;
    int32_t stride_w;
    int32_t dilation_h;
    int32_t dilation_w;
    int32_t pad_top;
    int32_t pad_left;
    int32_t input_zero_point;
    int32_t output_zero_point;
    int32_t qmin;
    int32_t qmax;
    int32_t rounding;    /* enum bitship_mve_rounding */
    int32_t together;    /* depthwise: pixels of a row that the stream is for; 0: taps come in runs */
    int32_t padded_rows; /* conv2d: every row of taps takes 16 bytes of a patch */
    int32_t grouped;     /* conv2d_int4: multipliers before every piece of weights */
};

/* weights: pairs of channels, their 16-byte pieces alternating, zeros after the depth and the channels up to
 * a multiple of 4; table: bias less the input zero point's share, multiplier, shift (left shift, below zero)
 * of each.
 */
int bitship_mve_conv2d(const struct bitship_mve_window *p, const int8_t *x, const int8_t *weights,
                       const int32_t *table, void *scratch, int32_t scratch_bytes, int8_t *out);

/* stream: the constants of every 16 channels (src/mve/depthwise.h); a tap in the padding reads scratch. */
int bitship_mve_depthwise_conv2d(const struct bitship_mve_window *p, const int8_t *x, const int8_t *stream,
                                 void *scratch, int32_t scratch_bytes, int8_t *out);

/* x [rows, depth], weights and table as conv2d's. For a few rows: each reads all weights. */
struct bitship_mve_dense {
    int32_t rows;
    int32_t depth;
    int32_t channels;
    int32_t output_zero_point;
    int32_t qmin;
    int32_t qmax;
    int32_t rounding;
    int32_t grouped;
};
int bitship_mve_fully_connected(const struct bitship_mve_dense *p, const int8_t *x, const int8_t *weights,
                                const int32_t *table, int8_t *out);

/* The same with weights of four bits, those of a pair of channels in the halves of 16 bytes, and with a
 * multiplier of each before them where `grouped` is not 0 (src/mve/int4.c); depths beyond 16, no padded rows.
 */
int bitship_mve_conv2d_int4(const struct bitship_mve_window *p, const int8_t *x, const void *weights,
                            const int32_t *table, void *scratch, int32_t scratch_bytes, int8_t *out);
int bitship_mve_fully_connected_int4(const struct bitship_mve_dense *p, const int8_t *x, const void *weights,
                                     const int32_t *table, int8_t *out);

/* int8 tensors of one shape. A term of a sum is a table's word at its code, as uint8, or its code times
 * b_factor; mul: (a - a_zero_point) * (b - b_factor). */
struct bitship_mve_binary {
    int32_t size;
    int32_t a_zero_point;
    int32_t b_factor;
    int32_t multiplier;
    int32_t shift;
    int32_t left;
    int32_t below;
    int32_t output_zero_point;
    int32_t qmin;
    int32_t qmax;
    int32_t rounding;
};
int bitship_mve_add(const struct bitship_mve_binary *p, const int8_t *a, const int8_t *b,
                    const int32_t *a_term, const int32_t *b_term, int8_t *out);
int bitship_mve_add_linear(const struct bitship_mve_binary *p, const int8_t *a, const int8_t *b,
                           const int32_t *a_term, int8_t *out);
int bitship_mve_mul(const struct bitship_mve_binary *p, const int8_t *a, const int8_t *b, int8_t *out);

/* int8 alone, otherwise as bitship_avg_pool2d and bitship_max_pool2d. */
int bitship_mve_avg_pool2d(const struct bitship_window *p, const int8_t *x, int8_t *out);
int bitship_mve_max_pool2d(const struct bitship_window *p, const int8_t *x, int8_t *out);

/* batch images of `rows` rows of `bytes` bytes; top and bottom count rows, left and right bytes of `value`.
 */
struct bitship_mve_pad {
    int32_t batch;
    int32_t rows;
    int32_t bytes;
    int32_t top;
    int32_t bottom;
    int32_t left;
    int32_t right;
    int32_t value;
};
int bitship_mve_pad(const struct bitship_mve_pad *p, const int8_t *x, int8_t *out);

/* x [outer, extent, inner] int8; out [outer, inner]: the sums and bias, rescaled. */
struct bitship_mve_reduce {
    int32_t outer;
    int32_t extent;
    int32_t inner;
    int32_t bias;
    int32_t multiplier;
    int32_t shift;
    int32_t left;
    int32_t below;
    int32_t output_zero_point;
    int32_t qmin;
    int32_t qmax;
    int32_t rounding;
};
int bitship_mve_reduce_sum(const struct bitship_mve_reduce *p, const int8_t *x, int8_t *out);

/* out[i] = table[x[i] as uint8] */
struct bitship_mve_table {
    int32_t size;
};
int bitship_mve_table(const struct bitship_mve_table *p, const int8_t *x, const int8_t *table, int8_t *out);

/* cffi: end */

#ifdef __cplusplus
}
#endif

#endif
