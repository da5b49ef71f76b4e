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

#if defined(BITSHIP_COUNTER_NRF51) /* a TIMER: 16 MHz, 32 bits, read by capturing into CC[0] */
#define TIMER(offset) (*(volatile uint32_t *)(BITSHIP_COUNTER + (offset)))

void port_ticks_start(void) {
    TIMER(0x504) = 0; /* MODE: timer */
    TIMER(0x508) = 3; /* BITMODE: 32 */
    TIMER(0x510) = 0; /* PRESCALER */
    TIMER(0x000) = 1; /* START */
}

uint32_t port_ticks(void) {
    TIMER(0x040) = 1; /* CAPTURE[0] */
    return TIMER(0x540);
}
#elif defined(BITSHIP_COUNTER)
void port_ticks_start(void) {}

uint32_t port_ticks(void) { return *(volatile uint32_t *)BITSHIP_COUNTER; }
#else
void port_ticks_start(void) {}

uint32_t port_ticks(void) { return 0; }
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
