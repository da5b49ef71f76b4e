/* The NPU port of an image without a driver: every call refuses. */
#include "npu.h"
#include "npu_board.h"

int bitship_npu_board_start(void) { return BITSHIP_NPU_ABSENT; }

int bitship_npu_open(struct bitship_npu *npu) {
    if (npu == NULL) {
        return BITSHIP_NPU_BAD_ARGUMENT;
    }
    npu->device = NULL;
    npu->running = 0;
    return BITSHIP_NPU_ABSENT;
}

int bitship_npu_run(struct bitship_npu *npu, const void *commands, size_t bytes,
                    const struct bitship_npu_base *bases, size_t count) {
    (void)npu;
    (void)commands;
    (void)bytes;
    (void)bases;
    (void)count;
    return BITSHIP_NPU_ABSENT;
}

int bitship_npu_poll(struct bitship_npu *npu) {
    (void)npu;
    return BITSHIP_NPU_ABSENT;
}

int bitship_npu_wait(struct bitship_npu *npu, uint32_t polls) {
    (void)polls;
    return bitship_npu_poll(npu);
}

int bitship_npu_close(struct bitship_npu *npu) {
    (void)npu;
    return BITSHIP_NPU_ABSENT;
}

const char *bitship_npu_text(int status) {
    return status == BITSHIP_NPU_BAD_ARGUMENT ? "an argument is null"
                                              : "no NPU driver is linked: set ETHOS_U_DRIVER_DIR to a built "
                                                "Ethos-U core driver and link again";
}
