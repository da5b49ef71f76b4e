/* Restart of a RISC-V core: its first instruction again. Peripherals stay as they are; drivers set up all
 * they use. */
#include "port.h"

void port_entry(void) __attribute__((noreturn));

void port_restart(void) { port_entry(); }

void port_exit(int code) {
    (void)code;
    port_restart();
}
