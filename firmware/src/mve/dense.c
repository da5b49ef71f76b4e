/* One row times every channel, four channels at a time; see dense.h. */
#include "dense.h"

#if BITSHIP_MVE

void bitship_mve_row(const struct bitship_mve_row *d) {
    register const struct bitship_mve_row *at __asm__("r0") = d;
    __asm__ volatile(
        "mov r11, r0\n"
        "ldr r10, [r0, #44]\n"
        "movs r2, #0\n"
        "vidup.u32 q7, r2, #1\n"
        "vmul.i32 q7, q7, r10\n"
        "add r10, r10, r10, lsl #1\n"
        "ldrd r3, r9, [r0, #8]\n"
        "ldrd r7, r8, [r0, #16]\n"
        "ldr r12, [r0, #24]\n"
        "ldrd r2, r6, [r0, #36]\n"
        "vdup.32 q5, r2\n"
        "vdup.32 q6, r6\n"
        "add r5, r3, r12\n"
        "1:\n"
        "ldrd r1, r0, [r11]\n"
        "dlstp.8 lr, r0\n"
        "movs r0, #0\n"
        "movs r2, #0\n"
        "movs r4, #0\n"
        "movs r6, #0\n"
        "2:\n"
        "vldrb.u8 q0, [r1], #16\n"
        "vldrb.u8 q1, [r3], #16\n"
        "vmladava.s8 r0, q0, q1\n"
        "vldrb.u8 q2, [r3], #16\n"
        "vmladava.s8 r2, q0, q2\n"
        "vldrb.u8 q3, [r5], #16\n"
        "vmladava.s8 r4, q0, q3\n"
        "vldrb.u8 q4, [r5], #16\n"
        "vmladava.s8 r6, q0, q4\n"
        "letp lr, 2b\n"
        "mov r3, r5\n"
        "add r5, r5, r12\n"
        "vmov q0[2], q0[0], r0, r4\n"
        "vmov q0[3], q0[1], r2, r6\n"
        "ldrd r0, r1, [r11, #28]\n"
        "vldrw.u32 q1, [r9, q7]\n"
        "add r9, r9, #4\n"
        "vldrw.u32 q2, [r9, q7]\n"
        "add r9, r9, #4\n"
        "vldrw.u32 q3, [r9, q7]\n"
        "add r9, r9, #4\n"
        "vadd.i32 q0, q0, q1\n"
        "tst r1, #4\n"
        "bne 5f\n"
        "lsrs r1, r1, #1\n"
        "bcs 3f\n"
        "bne 4f\n"
        "vqdmulh.s32 q0, q0, q2\n"
        "b 6f\n"
        "4:\n"
        "vqrdmulh.s32 q0, q0, q2\n"
        "vshr.s32 q1, q0, #31\n"
        "vadd.i32 q0, q0, q1\n"
        "b 6f\n"
        "5:\n"
        "vldrw.u32 q1, [r9, q7]\n"
        "add r9, r9, #4\n"
        "vqshl.s32 q0, q0, q1\n"
        "vldrw.u32 q1, [r9, q7]\n"
        "add r9, r9, #4\n"
        "lsrs r1, r1, #1\n"
        "bcs 7f\n"
        "vqdmulh.s32 q0, q0, q2\n"
        "b 6f\n"
        "7:\n"
        "vqrdmulh.s32 q0, q0, q2\n"
        "vpt.s32 lt, q0, zr\n"
        "vaddt.i32 q0, q0, q1\n"
        "b 6f\n"
        "3:\n"
        "vqrdmulh.s32 q0, q0, q2\n"
        "6:\n"
        "add r9, r9, r10\n"
        "vrshl.s32 q0, q0, q3\n"
        "vqadd.s32 q0, q0, r0\n"
        "vmax.s32 q0, q0, q5\n"
        "vmin.s32 q0, q0, q6\n"
        "vctp.32 r8\n"
        "subs r8, r8, #4\n"
        "vpst\n"
        "vstrbt.32 q0, [r7], #4\n"
        "bgt 1b\n"
        : "+r"(at)
        :
        : "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr", "q0", "q1", "q2",
          "q3", "q4", "q5", "q6", "cc", "memory");
}

#else

void bitship_mve_row(const struct bitship_mve_row *d) {
    for (int32_t c = 0; c < d->channels; c++) {
        const int8_t *w = d->weights + (ptrdiff_t)(c / 2) * d->pitch + c % 2 * BITSHIP_MVE_BYTES;
        const int32_t *entry = d->table + c * d->entry_bytes / 4;
        const int8_t clamp[32] = {[0] = (int8_t)d->qmin, [16] = (int8_t)d->qmax};
        int32_t sum = 0;
        for (int32_t i = 0; i < d->depth; i++) {
            sum += d->x[i] * w[i / 16 * 32 + i % 16];
        }
        d->out[c] = bitship_mve_narrow(bitship_mve_round(sum, entry, d->rounding), d->zero_point, clamp);
    }
}

#endif

int bitship_mve_fully_connected(const struct bitship_mve_dense *p, const int8_t *x, const int8_t *weights,
                                const int32_t *table, int8_t *out) {
    struct bitship_mve_row d = {.depth = p->depth,
                                .weights = weights,
                                .table = table,
                                .channels = p->channels,
                                .pitch = (p->depth + 15) / 16 * 32,
                                .zero_point = p->output_zero_point,
                                .rounding = p->rounding,
                                .qmin = p->qmin,
                                .qmax = p->qmax,
                                .entry_bytes = BITSHIP_MVE_ENTRY(p->rounding) * 4};
    for (int32_t i = 0; i < p->rows; i++) {
        d.x = x + (ptrdiff_t)i * p->depth;
        d.out = out + (ptrdiff_t)i * p->channels;
        bitship_mve_row(&d);
    }
    return BITSHIP_OK;
}
