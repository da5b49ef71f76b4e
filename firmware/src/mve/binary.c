/* add, sub and mul of two int8 tensors of one shape, four elements at a time.
 *
 * What a term of a sum contributes depends on one byte: a table of 256 words, made ahead of time from the
 * exact rescale, takes the place of its arithmetic. A term that is its code times a constant (the larger
 * scale of TFLite's ADD) needs no table.
 */
#include "binary.h"

#if BITSHIP_MVE

#define TERMS "vldrb.u32 q0, [r0], #4\n vldrw.u32 q2, [r4, q0, uxtw #2]\n"
#define TABLES TERMS "vldrb.u32 q1, [r1], #4\n vldrw.u32 q3, [r5, q1, uxtw #2]\n vadd.i32 q2, q2, q3\n"
#define LINEAR TERMS "vldrb.s32 q1, [r1], #4\n vmla.s32 q2, q1, r5\n"
#define PRODUCT                                                                                              \
    "vldrb.s32 q2, [r0], #4\n vldrb.s32 q1, [r1], #4\n vsub.i32 q2, q2, r4\n vsub.i32 q1, q1, r5\n"          \
    "vmul.i32 q2, q2, q1\n"
#define SINGLE "vqdmulh.s32 q2, q2, r6\n"
#define DOUBLE "vqrdmulh.s32 q2, q2, r6\n"
#define AWAY "vshr.s32 q3, q2, #31\n vqrdmlah.s32 q3, q2, r6\n"
#define SINGLE_ANY "vqshl.s32 q2, r10\n" SINGLE
#define DOUBLE_ANY "vqshl.s32 q2, r10\n" DOUBLE "vpt.s32 lt, q2, zr\n vaddt.i32 q2, q2, r11\n"
#define STORE(q)                                                                                             \
    "vrshl.s32 " q ", r7\n vqadd.s32 " q ", " q ", r8\n vmax.s32 " q ", " q ", q4\n vmin.s32 " q ", " q      \
    ", q5\n vstrb.32 " q ", [r2], #4\n"

#define WALK(terms, setup, round, q)                                                                           \
    {                                                                                                          \
        register const struct bitship_mve_terms *at __asm__("r0") = d;                                         \
        __asm__ volatile("ldrd r8, r9, [r0, #28]\n"                                                          \
                         "ldr r7, [r0, #36]\n"                                                               \
                         "vdup.32 q4, r9\n"                                                                  \
                         "vdup.32 q5, r7\n"                                                                  \
                         "ldr r6, [r0, #44]\n"                                                               \
                         "ldrd r7, r10, [r0, #48]\n"                                                         \
                         "ldr r11, [r0, #56]\n"                                                              \
                         "ldrd r4, r5, [r0, #16]\n" setup "ldrd r2, r3, [r0, #8]\n"                 \
                         "ldrd r0, r1, [r0]\n"                                                               \
                         "lsrs r9, r3, #4\n"                                                                 \
                         "ands r3, r3, #15\n"                                                                \
                         "wls lr, r9, 2f\n"                                                                  \
                         "1:\n" terms round STORE(q) terms round STORE(q) terms round STORE(q)               \
                             terms round STORE(q) "le lr, 1b\n"                                              \
                                                  "2:\n"                                                     \
                                                  "wlstp.32 lr, r3, 4f\n"                                    \
                                                  "3:\n" terms round STORE(q) "letp lr, 3b\n"                \
                                                                              "4:\n"                         \
                         : "+r"(at)                                                                          \
                         :                                                                                   \
                         : "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "lr", "q0",   \
                           "q1", "q2", "q3", "q4", "q5", "cc", "memory"); \
    }
#define B_FACTOR "ldr r5, [r0, #24]\n"
#define A_ZERO_POINT "ldr r4, [r0, #60]\n"

#define WALKS(terms, setup)                                                                                  \
    switch (rounding) {                                                                                      \
    case BITSHIP_MVE_SINGLE:                                                                                 \
        WALK(terms, setup, SINGLE, "q2")                                                                     \
        break;                                                                                               \
    case BITSHIP_MVE_DOUBLE_UP:                                                                              \
        WALK(terms, setup, DOUBLE, "q2")                                                                     \
        break;                                                                                               \
    case BITSHIP_MVE_DOUBLE:                                                                                 \
        WALK(terms, setup, AWAY, "q3")                                                                       \
        break;                                                                                               \
    case BITSHIP_MVE_SINGLE_ANY:                                                                             \
        WALK(terms, setup, SINGLE_ANY, "q2")                                                                 \
        break;                                                                                               \
    default:                                                                                                 \
        WALK(terms, setup, DOUBLE_ANY, "q2")                                                                 \
        break;                                                                                               \
    }

static void sum_tables(const struct bitship_mve_terms *d, int32_t rounding) { WALKS(TABLES, "") }
static void sum_linear(const struct bitship_mve_terms *d, int32_t rounding) { WALKS(LINEAR, B_FACTOR) }
static void product(const struct bitship_mve_terms *d, int32_t rounding) {
    WALKS(PRODUCT, A_ZERO_POINT B_FACTOR)
}

#else

static void put(const struct bitship_mve_terms *d, int32_t rounding, int32_t i, uint32_t value) {
    const int8_t clamp[32] = {[0] = (int8_t)d->qmin, [16] = (int8_t)d->qmax};
    const int32_t y = bitship_mve_round((int32_t)value, d->entry, rounding);
    d->out[i] = bitship_mve_narrow(y, d->zero_point, clamp);
}

static void sum_tables(const struct bitship_mve_terms *d, int32_t rounding) {
    for (int32_t i = 0; i < d->size; i++) {
        put(d, rounding, i, (uint32_t)d->a_term[(uint8_t)d->a[i]] + (uint32_t)d->b_term[(uint8_t)d->b[i]]);
    }
}

static void sum_linear(const struct bitship_mve_terms *d, int32_t rounding) {
    for (int32_t i = 0; i < d->size; i++) {
        put(d, rounding, i,
            (uint32_t)d->a_term[(uint8_t)d->a[i]] + (uint32_t)d->b[i] * (uint32_t)d->b_factor);
    }
}

static void product(const struct bitship_mve_terms *d, int32_t rounding) {
    for (int32_t i = 0; i < d->size; i++) {
        put(d, rounding, i, (uint32_t)((d->a[i] - d->a_zero_point) * (d->b[i] - d->b_factor)));
    }
}

#endif

static struct bitship_mve_terms prepared(const struct bitship_mve_binary *p, const int8_t *a, const int8_t *b,
                                         int8_t *out) {
    const struct bitship_mve_terms d = {.a = a,
                                        .b = b,
                                        .out = out,
                                        .size = p->size,
                                        .b_factor = p->b_factor,
                                        .zero_point = p->output_zero_point,
                                        .qmin = p->qmin,
                                        .qmax = p->qmax,
                                        .entry = {0, p->multiplier, p->shift, p->left, p->below},
                                        .a_zero_point = p->a_zero_point};
    return d;
}

int bitship_mve_add(const struct bitship_mve_binary *p, const int8_t *a, const int8_t *b,
                    const int32_t *a_term, const int32_t *b_term, int8_t *out) {
    struct bitship_mve_terms d = prepared(p, a, b, out);
    d.a_term = a_term;
    d.b_term = b_term;
    sum_tables(&d, p->rounding);
    return BITSHIP_OK;
}

int bitship_mve_add_linear(const struct bitship_mve_binary *p, const int8_t *a, const int8_t *b,
                           const int32_t *a_term, int8_t *out) {
    struct bitship_mve_terms d = prepared(p, a, b, out);
    d.a_term = a_term;
    sum_linear(&d, p->rounding);
    return BITSHIP_OK;
}

int bitship_mve_mul(const struct bitship_mve_binary *p, const int8_t *a, const int8_t *b, int8_t *out) {
    const struct bitship_mve_terms d = prepared(p, a, b, out);
    product(&d, p->rounding);
    return BITSHIP_OK;
}
