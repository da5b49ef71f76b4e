/* Wrong arguments give an error code and leave the output as it was. */
#include "bitship/kernels.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

static int failures;

static void expect(const char *what, int got, int wanted, const uint8_t *out, size_t bytes) {
    int touched = 0;
    for (size_t i = 0; i < bytes; i++) {
        touched |= out[i] != 0x5a;
    }
    if (got != wanted || touched) {
        printf("%s: returned %d, %d is wanted; output %s\n", what, got, wanted,
               touched ? "touched" : "untouched");
        failures++;
    }
}

static void conv2d(void) {
    struct bitship_window p = {.x_dtype = BITSHIP_INT8,
                               .batch = 1,
                               .in_h = 2,
                               .in_w = 2,
                               .in_c = 2,
                               .out_h = 2,
                               .out_w = 2,
                               .out_c = 1,
                               .kernel_h = 1,
                               .kernel_w = 1,
                               .stride_h = 1,
                               .stride_w = 1,
                               .dilation_h = 1,
                               .dilation_w = 1,
                               .groups = 1,
                               .tile = 2};
    int8_t x[8] = {0}, w[2] = {0};
    int32_t bias[1] = {0};
    int16_t scratch[64];
    uint8_t out[16];
    memset(out, 0x5a, sizeof out);
    const int32_t enough = (int32_t)sizeof scratch;
    expect("conv2d null", bitship_conv2d(&p, NULL, w, bias, scratch, enough, out), BITSHIP_ERROR_ARGUMENT,
           out, 16);
    expect("conv2d scratch", bitship_conv2d(&p, x, w, bias, scratch, 7, out), BITSHIP_ERROR_SCRATCH, out, 16);
    p.tile = 3;
    expect("conv2d tile", bitship_conv2d(&p, x, w, bias, scratch, enough, out), BITSHIP_ERROR_ARGUMENT, out,
           16);
    p.tile = 2;
    p.groups = 3;
    expect("conv2d groups", bitship_conv2d(&p, x, w, bias, scratch, enough, out), BITSHIP_ERROR_ARGUMENT, out,
           16);
    p.groups = 1;
    p.x_dtype = BITSHIP_INT32;
    expect("conv2d dtype", bitship_conv2d(&p, x, w, bias, scratch, enough, out), BITSHIP_ERROR_UNSUPPORTED,
           out, 16);
    p.x_dtype = BITSHIP_INT16;
    p.input_zero_point = 1;
    expect("conv2d int16 zp", bitship_conv2d(&p, x, w, bias, scratch, enough, out), BITSHIP_ERROR_UNSUPPORTED,
           out, 16);
    p.x_dtype = BITSHIP_INT8;
    p.out_h = 0;
    expect("depthwise extent", bitship_depthwise_conv2d(&p, x, w, bias, out), BITSHIP_ERROR_ARGUMENT, out,
           16);
    p.out_h = 2;
    p.out_c = 2;
    p.qmin = 1;
    expect("pool range", bitship_avg_pool2d(&p, x, out), BITSHIP_ERROR_ARGUMENT, out, 16);
    expect("pool null", bitship_max_pool2d(NULL, x, out), BITSHIP_ERROR_ARGUMENT, out, 16);
}

static void rescale(void) {
    const int32_t multiplier[2] = {1 << 30, 1 << 30};
    const int8_t shift[2] = {0, 0};
    struct bitship_rescale r = {multiplier, shift, 2, 0, 0, 0, BITSHIP_SINGLE, BITSHIP_INT8, -128, 127};
    struct bitship_rescale_op p = {BITSHIP_INT32, 1, 3, &r};
    int32_t x[3] = {0};
    uint8_t out[4];
    memset(out, 0x5a, sizeof out);
    expect("rescale channels", bitship_rescale(&p, x, out), BITSHIP_ERROR_ARGUMENT, out, 4);
    r.count = 1;
    r.rounding = 7;
    expect("rescale rounding", bitship_rescale(&p, x, out), BITSHIP_ERROR_ARGUMENT, out, 4);
    r.rounding = BITSHIP_DOUBLE;
    r.dtype = 99;
    expect("rescale dtype", bitship_rescale(&p, x, out), BITSHIP_ERROR_UNSUPPORTED, out, 4);
    r.dtype = BITSHIP_INT8;
    p.requant = NULL;
    expect("rescale none", bitship_rescale(&p, x, out), BITSHIP_ERROR_ARGUMENT, out, 4);
}

static void others(void) {
    int8_t x[8] = {0};
    int32_t table[256] = {0};
    uint8_t out[8];
    memset(out, 0x5a, sizeof out);
    const struct bitship_softmax wide = {1, 4096}, fine = {1, 8};
    expect("softmax wide", bitship_softmax(&wide, x, table, (int8_t *)out), BITSHIP_ERROR_ARGUMENT, out, 8);
    expect("softmax table", bitship_softmax(&fine, x, table, (int8_t *)out), BITSHIP_ERROR_ARGUMENT, out, 8);
    const struct bitship_strided item = {.item_bytes = 3, .shape = {1, 1, 1, 1, 1, 1}};
    expect("slice item", bitship_slice(&item, x, out), BITSHIP_ERROR_ARGUMENT, out, 8);
    const struct bitship_concat overlap = {2, 4, 0, 3};
    expect("concat step", bitship_concat(&overlap, x, out), BITSHIP_ERROR_ARGUMENT, out, 8);
    const struct bitship_unary left = {.x_dtype = BITSHIP_INT8, .size = 8, .amount = 1};
    expect("shift dtype", bitship_logical_left_shift(&left, x, out), BITSHIP_ERROR_UNSUPPORTED, out, 8);
    const struct bitship_unary far = {.x_dtype = BITSHIP_INT8, .size = 8, .amount = 32};
    expect("shift amount", bitship_arithmetic_right_shift(&far, x, out), BITSHIP_ERROR_ARGUMENT, out, 8);
    const struct bitship_reduce any = {
        .x_dtype = BITSHIP_INT8, .reduction = BITSHIP_REDUCE_ANY, .shape = {1, 1, 1, 1, 1, 8}};
    expect("any dtype", bitship_reduce(&any, x, out), BITSHIP_ERROR_UNSUPPORTED, out, 8);
    const struct bitship_matmul product = {BITSHIP_INT32, 1, 1, 1, 1, 0, 0, NULL};
    expect("matmul dtype", bitship_matmul(&product, x, x, out), BITSHIP_ERROR_UNSUPPORTED, out, 8);
    const struct bitship_binary sum = {.a_dtype = BITSHIP_INT8, .b_dtype = BITSHIP_INT8};
    expect("add shape", bitship_add(&sum, x, x, out), BITSHIP_ERROR_ARGUMENT, out, 8);
    const struct bitship_argmax none = {BITSHIP_INT8, 1, 0, 1};
    expect("argmax extent", bitship_argmax(&none, x, out), BITSHIP_ERROR_ARGUMENT, out, 8);
    expect("gather null", bitship_gather(NULL, x, table, out), BITSHIP_ERROR_ARGUMENT, out, 8);
    expect("resize null", bitship_resize(NULL, x, out), BITSHIP_ERROR_ARGUMENT, out, 8);
}

static void norms(void) {
    const int32_t multiplier[4] = {1, 2, 3, 4}, bias[4] = {0};
    const int8_t x[8] = {0};
    uint8_t out[16];
    memset(out, 0x5a, sizeof out);
    struct bitship_norm p = {.x_dtype = BITSHIP_INT8,
                             .out_dtype = BITSHIP_INT8,
                             .rows = 2,
                             .channels = 4,
                             .period = 4,
                             .shift = 40,
                             .qmin = -128,
                             .qmax = 127};
    expect("norm null", bitship_layer_norm(&p, x, NULL, bias, out), BITSHIP_ERROR_ARGUMENT, out, 16);
    p.period = 3;
    expect("norm period", bitship_rms_norm(&p, x, multiplier, bias, out), BITSHIP_ERROR_ARGUMENT, out, 16);
    p.period = 4;
    p.shift = 63;
    expect("norm shift", bitship_i_layer_norm(&p, x, multiplier, bias, out), BITSHIP_ERROR_ARGUMENT, out, 16);
    p.shift = 40;
    p.epsilon = (int64_t)1 << 61;
    expect("norm epsilon", bitship_layer_norm(&p, x, multiplier, bias, out), BITSHIP_ERROR_ARGUMENT, out, 16);
    p.epsilon = 0;
    p.output_zero_point = 1 << 20;
    expect("norm zero point", bitship_layer_norm(&p, x, multiplier, bias, out), BITSHIP_ERROR_ARGUMENT, out,
           16);
    p.output_zero_point = 0;
    p.out_dtype = BITSHIP_INT32;
    expect("norm dtype", bitship_layer_norm(&p, x, multiplier, bias, out), BITSHIP_ERROR_UNSUPPORTED, out,
           16);
}

static void attention(void) {
    const int32_t multiplier[1] = {1 << 30}, below[256] = {0};
    const int8_t shift[1] = {0}, x[8] = {0};
    const int16_t wide[256] = {0};
    const uint8_t table[256] = {0};
    uint8_t out[16], scratch[16];
    memset(out, 0x5a, sizeof out);
    const struct bitship_table_softmax long_row = {1, 65536, 0};
    expect("table_softmax row", bitship_table_softmax(&long_row, x, wide, (int16_t *)(void *)scratch),
           BITSHIP_ERROR_ARGUMENT, out, 16);
    struct bitship_rescale r = {multiplier, shift, 1, 0, 0, 0, BITSHIP_SINGLE, BITSHIP_INT8, -128, 127};
    struct bitship_softmax_matmul p = {1, 2, 4, 2, 0, 0, 2, &r};
    expect("softmax_matmul null", bitship_softmax_matmul(&p, x, x, NULL, scratch, 16, out),
           BITSHIP_ERROR_ARGUMENT, out, 16);
    expect("softmax_matmul scratch", bitship_softmax_matmul(&p, x, x, table, scratch, 7, out),
           BITSHIP_ERROR_SCRATCH, out, 16);
    p.tile = 9;
    expect("softmax_matmul tile", bitship_softmax_matmul(&p, x, x, table, scratch, 16, out),
           BITSHIP_ERROR_ARGUMENT, out, 16);
    p.tile = 2;
    r.rounding = BITSHIP_DOUBLE;
    expect("softmax_matmul rounding", bitship_softmax_matmul(&p, x, x, table, scratch, 16, out),
           BITSHIP_ERROR_ARGUMENT, out, 16);
    const struct bitship_shift_exp half = {.rows = 1, .channels = 8, .below = below};
    expect("shiftgelu table", bitship_shiftgelu(&half, x, out), BITSHIP_ERROR_ARGUMENT, out, 16);
    const struct bitship_shift_exp none = {.rows = 1, .channels = 8};
    expect("shiftmax table", bitship_shiftmax(&none, x, (int16_t *)(void *)scratch), BITSHIP_ERROR_ARGUMENT,
           out, 16);
}

/* Packed convolutions of this host, where it has any. */
static void host(void) {
    struct bitship_window p = {.x_dtype = BITSHIP_INT8,
                               .batch = 1,
                               .in_h = 2,
                               .in_w = 2,
                               .in_c = 2,
                               .out_h = 2,
                               .out_w = 2,
                               .out_c = 2,
                               .kernel_h = 1,
                               .kernel_w = 1,
                               .stride_h = 1,
                               .stride_w = 1,
                               .dilation_h = 1,
                               .dilation_w = 1,
                               .groups = 1};
    static int32_t packed[2048], scratch[2048];
    int8_t x[8] = {0}, w[4] = {0};
    int32_t bias[2] = {0};
    uint8_t out[32];
    memset(out, 0x5a, sizeof out);
    const int32_t enough = (int32_t)sizeof scratch;
    for (int32_t level = 1; level <= bitship_host_level(); level++) {
        if (bitship_host_conv2d_packed_bytes(level, &p) > (int32_t)sizeof packed ||
            bitship_host_depthwise_conv2d_packed_bytes(level, &p) > (int32_t)sizeof packed) {
            printf("host: packed weights are larger than this test expects\n");
            failures++;
            return;
        }
        expect("host conv2d pack", bitship_host_conv2d_pack(level, &p, w, bias, packed), BITSHIP_OK, out, 32);
        expect("host conv2d null", bitship_host_conv2d(&p, NULL, packed, scratch, enough, out),
               BITSHIP_ERROR_ARGUMENT, out, 32);
        expect("host conv2d scratch", bitship_host_conv2d(&p, x, packed, scratch, 7, out),
               BITSHIP_ERROR_SCRATCH, out, 32);
        p.groups = 2;
        expect("host conv2d groups", bitship_host_conv2d(&p, x, packed, scratch, enough, out),
               BITSHIP_ERROR_UNSUPPORTED, out, 32);
        p.groups = 1;
        expect("host depthwise pack", bitship_host_depthwise_conv2d_pack(level, &p, w, bias, packed),
               BITSHIP_OK, out, 32);
        expect("host depthwise null", bitship_host_depthwise_conv2d(&p, x, NULL, scratch, enough, out),
               BITSHIP_ERROR_ARGUMENT, out, 32);
        expect("host depthwise scratch", bitship_host_depthwise_conv2d(&p, x, packed, scratch, 1, out),
               BITSHIP_ERROR_SCRATCH, out, 32);
        p.x_dtype = BITSHIP_INT16;
        expect("host depthwise dtype", bitship_host_depthwise_conv2d(&p, x, packed, scratch, enough, out),
               BITSHIP_ERROR_UNSUPPORTED, out, 32);
        p.x_dtype = BITSHIP_INT8;
    }
    expect("host level", bitship_host_conv2d_pack(bitship_host_level() + 1, &p, w, bias, packed),
           BITSHIP_ERROR_UNSUPPORTED, out, 32);
}

int main(void) {
    conv2d();
    rescale();
    others();
    norms();
    attention();
    host();
    return failures != 0;
}
