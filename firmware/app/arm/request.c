/* Semihosting of a Cortex-M: a breakpoint that the debugger or emulator takes for itself. */
#include "port.h"

int32_t port_request(uint32_t operation, uint32_t *block) {
    register uint32_t r0 __asm__("r0") = operation;
    register uint32_t *r1 __asm__("r1") = block;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return (int32_t)r0;
}
