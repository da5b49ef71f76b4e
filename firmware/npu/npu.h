/* An NPU behind a port: open it, run a command stream, wait, close.
 *
 * One implementation is linked: npu_ethosu.c (Arm's core driver, which is the user's) or npu_absent.c
 * (refuses). The caller owns all memory. Every base address is aligned to BITSHIP_NPU_ALIGN and stays in
 * place while a stream runs; caches are the driver's affair. */
#ifndef BITSHIP_NPU_PORT_H
#define BITSHIP_NPU_PORT_H

#include <stddef.h>
#include <stdint.h>

enum { BITSHIP_NPU_ALIGN = 16, BITSHIP_NPU_BASES = 8 };

enum bitship_npu_status {
    BITSHIP_NPU_OK = 0,
    BITSHIP_NPU_RUNNING = 1,       /* bitship_npu_poll: not finished yet */
    BITSHIP_NPU_ABSENT = -1,       /* no driver is linked, or it has no NPU free */
    BITSHIP_NPU_BAD_ARGUMENT = -2, /* a null pointer, a wrong count, an address that is not aligned */
    BITSHIP_NPU_BUSY = -3,         /* a stream is running, or none is where one is waited for */
    BITSHIP_NPU_FAILED = -4        /* the driver refused the stream or the NPU stopped in it */
};

/* What an open NPU is: opaque to callers, zero before bitship_npu_open. */
struct bitship_npu {
    void *device;
    int running;
    int driver_status; /* the driver's last answer, for people */
    uint64_t bases[BITSHIP_NPU_BASES];
    size_t sizes[BITSHIP_NPU_BASES];
};

/* A region that the command stream addresses; its index is the region's number in npu.h of the package. */
struct bitship_npu_base {
    void *address;
    size_t bytes;
};

/* Reserve the NPU. OK, ABSENT, BAD_ARGUMENT. */
int bitship_npu_open(struct bitship_npu *npu);

/* Start a command stream: ``bytes`` at ``commands`` (npuN.commands.bin) over ``count`` regions, 1 to
 * BITSHIP_NPU_BASES. An unused region has a null address and 0 bytes. OK, BUSY, BAD_ARGUMENT, FAILED. */
int bitship_npu_run(struct bitship_npu *npu, const void *commands, size_t bytes,
                    const struct bitship_npu_base *bases, size_t count);

/* Ask whether the stream is finished: OK, RUNNING, BUSY (none was started), FAILED. */
int bitship_npu_poll(struct bitship_npu *npu);

/* Wait until it is, at most ``polls`` questions: OK, RUNNING (not yet), BUSY, FAILED. */
int bitship_npu_wait(struct bitship_npu *npu, uint32_t polls);

/* Give the NPU back; a stream that runs is an error: BUSY, and it stays open. */
int bitship_npu_close(struct bitship_npu *npu);

/* One line for people about a status. */
const char *bitship_npu_text(int status);

#endif
