/* A board under a debugger or emulator: semihosting for files and the exit code, a timer of the chip as
 * counter. */
#include "port.h"

#define SYS_OPEN 0x01u
#define SYS_CLOSE 0x02u
#define SYS_WRITE 0x05u
#define SYS_READ 0x06u
#define SYS_GET_CMDLINE 0x15u
#define SYS_EXIT_EXTENDED 0x20u
#define APPLICATION_EXIT 0x20026u

extern uint32_t __stack_limit[], __stack_top[];

/* One semihosting request; `block` holds its arguments as words. */
static int32_t request(uint32_t operation, uint32_t *block) {
    register uint32_t r0 __asm__("r0") = operation;
    register uint32_t *r1 __asm__("r1") = block;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return (int32_t)r0;
}

static uint32_t address(const void *p) { return (uint32_t)(uintptr_t)p; }

void port_exit(int code) {
    uint32_t block[2] = {APPLICATION_EXIT, (uint32_t)code};
    for (;;) {
        (void)request(SYS_EXIT_EXTENDED, block);
    }
}

int port_command_line(char *line, int32_t bytes) {
    uint32_t block[2] = {address(line), (uint32_t)bytes};
    return request(SYS_GET_CMDLINE, block) == 0 ? 0 : -1;
}

int32_t port_open(const char *name, int writing) {
    uint32_t length = 0;
    while (name[length] != 0) {
        length++;
    }
    uint32_t block[3] = {address(name), writing ? 5u : 1u, length}; /* "wb", "rb" */
    return request(SYS_OPEN, block);
}

int port_read(int32_t handle, void *data, int32_t bytes) {
    uint32_t block[3] = {(uint32_t)handle, address(data), (uint32_t)bytes};
    return request(SYS_READ, block) == 0 ? 0 : -1;
}

int port_write(int32_t handle, const void *data, int32_t bytes) {
    uint32_t block[3] = {(uint32_t)handle, address(data), (uint32_t)bytes};
    return request(SYS_WRITE, block) == 0 ? 0 : -1;
}

void port_close(int32_t handle) {
    uint32_t block[1] = {(uint32_t)handle};
    (void)request(SYS_CLOSE, block);
}

#if defined(BITSHIP_COUNTER)
#define REGISTER(offset) (*(volatile uint32_t *)(BITSHIP_COUNTER + (uint32_t)(offset)))
#endif

#if defined(BITSHIP_COUNTER_FPGAIO_HZ) /* COUNTER, 32 bits; CLK1HZ, 8 bytes before it, tells its wraps */
void port_ticks_start(void) {}

uint64_t port_ticks(void) {
    const uint32_t low = REGISTER(0), seconds = REGISTER(-8);
    const uint64_t about = (uint64_t)seconds * BITSHIP_COUNTER_FPGAIO_HZ + BITSHIP_COUNTER_FPGAIO_HZ / 2;
    const uint64_t wraps =
        (about + ((uint64_t)1 << 31) - low) >> 32; /* to nearest: a second is far below a wrap */
    return (wraps << 32) + low;
}
#elif defined(BITSHIP_COUNTER) /* 32 bits; one wrap between two readings is noticed */
static uint64_t extended(uint32_t low) {
    static uint32_t last, wraps;
    wraps += low < last;
    last = low;
    return ((uint64_t)wraps << 32) + low;
}

#if defined(BITSHIP_COUNTER_NRF51) /* a TIMER: 16 MHz, read by capturing into CC[0] */
void port_ticks_start(void) {
    REGISTER(0x504) = 0; /* MODE: timer */
    REGISTER(0x508) = 3; /* BITMODE: 32 */
    REGISTER(0x510) = 0; /* PRESCALER */
    REGISTER(0x000) = 1; /* START */
}

uint64_t port_ticks(void) {
    REGISTER(0x040) = 1; /* CAPTURE[0] */
    return extended(REGISTER(0x540));
}
#else
void port_ticks_start(void) {}

uint64_t port_ticks(void) { return extended(REGISTER(0)); }
#endif
#else
void port_ticks_start(void) {}

uint64_t port_ticks(void) { return 0; }
#endif

#define PATTERN 0xB175417Bu

void port_stack_paint(void) {
    const uint32_t *here;
    __asm__ volatile("mov %0, sp" : "=r"(here));
    for (uint32_t *word = __stack_limit; word < here - 8; word++) {
        *(volatile uint32_t *)word = PATTERN;
    }
}

int32_t port_stack_bytes(void) {
    const uint32_t bytes = address(__stack_top) - address(__stack_limit);
    uint32_t free = 0;
    while (free < bytes && ((const volatile uint32_t *)__stack_limit)[free / 4] == PATTERN) {
        free += 4;
    }
    return (int32_t)(bytes - free);
}
