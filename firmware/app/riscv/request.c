/* Semihosting of a RISC-V core: an ebreak between two shifts that do nothing, all three on one page. */
#include "port.h"

int32_t port_request(uint32_t operation, uint32_t *block) {
    register uint32_t a0 __asm__("a0") = operation;
    register uint32_t *a1 __asm__("a1") = block;
    __asm__ volatile(
        ".option push\n .option norvc\n .balign 16\n"
        "slli zero, zero, 0x1f\n ebreak\n srai zero, zero, 7\n .option pop"
        : "+r"(a0)
        : "r"(a1)
        : "memory");
    return (int32_t)a0;
}
