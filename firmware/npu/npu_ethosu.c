/* The NPU port over Arm's Ethos-U core driver. */
#include "npu.h"

#include <limits.h>

#include "ethosu_api.h"

int bitship_npu_open(struct bitship_npu *npu) {
    if (npu == NULL) {
        return BITSHIP_NPU_BAD_ARGUMENT;
    }
    npu->running = 0;
    npu->driver_status = 0;
    npu->device = ethosu_reserve_driver();
    return npu->device == NULL ? BITSHIP_NPU_ABSENT : BITSHIP_NPU_OK;
}

static int check(const struct bitship_npu *npu, const void *commands, size_t bytes,
                 const struct bitship_npu_base *bases, size_t count) {
    if (npu == NULL || npu->device == NULL || commands == NULL || bases == NULL) {
        return BITSHIP_NPU_BAD_ARGUMENT;
    }
    if (bytes == 0 || bytes > INT_MAX || count == 0 || count > BITSHIP_NPU_BASES ||
        (uintptr_t)commands % BITSHIP_NPU_ALIGN != 0) {
        return BITSHIP_NPU_BAD_ARGUMENT;
    }
    for (size_t i = 0; i < count; i++) {
        if ((uintptr_t)bases[i].address % BITSHIP_NPU_ALIGN != 0 ||
            (bases[i].address == NULL && bases[i].bytes != 0)) {
            return BITSHIP_NPU_BAD_ARGUMENT;
        }
    }
    return npu->running ? BITSHIP_NPU_BUSY : BITSHIP_NPU_OK;
}

int bitship_npu_run(struct bitship_npu *npu, const void *commands, size_t bytes,
                    const struct bitship_npu_base *bases, size_t count) {
    int status = check(npu, commands, bytes, bases, count);
    if (status != BITSHIP_NPU_OK) {
        return status;
    }
    for (size_t i = 0; i < count; i++) {
        npu->bases[i] = (uint64_t)(uintptr_t)bases[i].address;
        npu->sizes[i] = bases[i].bytes;
    }
    npu->driver_status =
        ethosu_invoke_async(npu->device, commands, (int)bytes, npu->bases, npu->sizes, (int)count, NULL);
    if (npu->driver_status != 0) {
        return BITSHIP_NPU_FAILED;
    }
    npu->running = 1;
    return BITSHIP_NPU_OK;
}

int bitship_npu_poll(struct bitship_npu *npu) {
    if (npu == NULL || npu->device == NULL) {
        return BITSHIP_NPU_BAD_ARGUMENT;
    }
    if (!npu->running) {
        return BITSHIP_NPU_BUSY;
    }
    npu->driver_status = ethosu_wait(npu->device, false);
    if (npu->driver_status == 1) {
        return BITSHIP_NPU_RUNNING;
    }
    npu->running = 0;
    return npu->driver_status == 0 ? BITSHIP_NPU_OK : BITSHIP_NPU_FAILED;
}

int bitship_npu_wait(struct bitship_npu *npu, uint32_t polls) {
    int status = BITSHIP_NPU_RUNNING;
    while (polls > 0 && status == BITSHIP_NPU_RUNNING) {
        status = bitship_npu_poll(npu);
        polls--;
    }
    return status;
}

int bitship_npu_close(struct bitship_npu *npu) {
    if (npu == NULL || npu->device == NULL) {
        return BITSHIP_NPU_BAD_ARGUMENT;
    }
    if (npu->running) {
        return BITSHIP_NPU_BUSY;
    }
    ethosu_release_driver(npu->device);
    npu->device = NULL;
    return BITSHIP_NPU_OK;
}

const char *bitship_npu_text(int status) {
    switch (status) {
    case BITSHIP_NPU_OK:
        return "ok";
    case BITSHIP_NPU_RUNNING:
        return "the command stream is not finished";
    case BITSHIP_NPU_ABSENT:
        return "the driver has no Ethos-U free; was ethosu_init called?";
    case BITSHIP_NPU_BUSY:
        return "a command stream is running, or none was started";
    case BITSHIP_NPU_FAILED:
        return "the driver refused the command stream, or the NPU stopped in it; see driver_status";
    default:
        return "an argument is null, out of range, or not aligned to 16 bytes";
    }
}
