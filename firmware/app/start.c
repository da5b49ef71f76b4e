/* What every core does after its reset: .data from flash, .bss to zero, the program. The linker script gives
 * the symbols. */
#include "port.h"

extern uint32_t __data_load[], __data_start[], __data_end[], __bss_start[], __bss_end[];

void port_start(void) {
    uint32_t *from = __data_load;
    for (uint32_t *to = __data_start; to != __data_end; to++) {
        *to = *from++;
    }
    for (uint32_t *to = __bss_start; to != __bss_end; to++) {
        *to = 0;
    }
#if defined(BITSHIP_BOARD)
    port_board_start();
#endif
    port_exit(port_main());
}
