/* Reset and faults of a RISC-V core in machine mode: the first instruction is the first of FLASH. */
#include "port.h"

void port_reset(void) __attribute__((noreturn, used));
static void port_fault(void) __attribute__((noreturn, aligned(256))); /* an ESP32-C3 has no finer mtvec */

__asm__(
    ".section .vectors, \"ax\"\n"
    ".global port_entry\n"
    "port_entry:\n"
    "    la sp, __stack_top\n"
    "    j port_reset\n"
    ".text\n");

static void port_fault(void) { port_exit(PORT_EXIT_FAULT); }

void port_reset(void) {
    __asm__ volatile(".option push\n .option arch, +zicsr\n csrw mtvec, %0\n .option pop"
                     :
                     : "r"(port_fault));
    port_start();
}
