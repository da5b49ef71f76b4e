/* Command streams as steps of a model: the NPU is opened with the first, and stays open. */
#include "npu_step.h"

#include <stddef.h>
#include <string.h>

#include "npu.h"
#include "npu_board.h"

static struct bitship_npu npu;
static int is_open;

static void copied(uint8_t *to, const uint8_t *from, const struct bitship_npu_border *p) {
    if (p->flip == 0) {
        memcpy(to, from, (size_t)p->bytes);
        return;
    }
    for (int32_t i = 0; i < p->bytes; i++) {
        to[i] = from[i] ^ 0x80u;
    }
}

static int wrong(const struct bitship_npu_border *p) { return p->offset < 0 || p->bytes < 1; }

int bitship_npu_put(const struct bitship_npu_border *p, const void *x, void *memory) {
    if (p == NULL || x == NULL || memory == NULL || wrong(p)) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    copied((uint8_t *)memory + p->offset, (const uint8_t *)x, p);
    return BITSHIP_OK;
}

int bitship_npu_take(const struct bitship_npu_border *p, const void *memory, void *out) {
    if (p == NULL || memory == NULL || out == NULL || wrong(p)) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    copied((uint8_t *)out, (const uint8_t *)memory + p->offset, p);
    return BITSHIP_OK;
}

static int error_of(int status) {
    switch (status) {
    case BITSHIP_NPU_OK:
        return BITSHIP_OK;
    case BITSHIP_NPU_ABSENT:
        return BITSHIP_ERROR_NPU_ABSENT;
    case BITSHIP_NPU_BAD_ARGUMENT:
        return BITSHIP_ERROR_ARGUMENT;
    default:
        return BITSHIP_ERROR_NPU_FAILED;
    }
}

static int opened(void) {
    if (is_open) {
        return BITSHIP_NPU_OK;
    }
    int status = bitship_npu_board_start();
    status = status == BITSHIP_NPU_OK ? bitship_npu_open(&npu) : status;
    is_open = status == BITSHIP_NPU_OK;
    return status;
}

int bitship_npu_stream(const struct bitship_npu_stream *p, const void *commands, const void *weights,
                       void *memory) {
    struct bitship_npu_base bases[BITSHIP_NPU_BASES] = {{NULL, 0}};
    if (p == NULL || commands == NULL || weights == NULL || memory == NULL || p->commands < 1 ||
        p->weights < 0 || p->scratch < 1 || p->fast < 0 || p->fast_offset < 0) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    const int32_t regions[3] = {p->weights_region, p->scratch_region, p->fast_region};
    size_t count = 0;
    for (int32_t i = 0; i < 3; i++) {
        if (regions[i] < 0 || regions[i] >= BITSHIP_NPU_BASES) {
            return BITSHIP_ERROR_ARGUMENT;
        }
        count = (size_t)regions[i] >= count ? (size_t)regions[i] + 1 : count;
    }
    if (p->fast > 0) {
        bases[p->fast_region].address = (uint8_t *)memory + p->fast_offset;
        bases[p->fast_region].bytes = (size_t)p->fast;
    }
    if (p->weights > 0) {
        bases[p->weights_region].address = (void *)(uintptr_t)weights;
        bases[p->weights_region].bytes = (size_t)p->weights;
    }
    bases[p->scratch_region].address = memory; /* last: a fast region of no bytes may have the same number */
    bases[p->scratch_region].bytes = (size_t)p->scratch;
    int status = opened();
    if (status == BITSHIP_NPU_OK) {
        status = bitship_npu_run(&npu, commands, (size_t)p->commands, bases, count);
    }
    if (status == BITSHIP_NPU_OK) {
        status = bitship_npu_wait(&npu, BITSHIP_NPU_POLLS);
    }
    return error_of(status);
}
