/* Restart of a Cortex-M: the system reset request. */
#include "port.h"

#define AIRCR (*(volatile uint32_t *)0xE000ED0Cu)

void port_restart(void) {
    __asm__ volatile("dsb" ::: "memory");
    AIRCR = 0x05FA0004u;
    for (;;) {
    }
}

void port_exit(int code) {
    (void)code;
    port_restart();
}
