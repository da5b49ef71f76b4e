/* ESP32-C3 by direct boot: 40 MHz from the crystal, UART0 on the pins the ROM has given it (GPIO21, GPIO20),
 * marker on GPIO4. The ROM leaves its watchdogs running. */
#include "port.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define UNLOCK 0x50D83AA1u
#define UNLOCK_SUPER 0x8F1D312Au

static void watchdogs(void) {
    REGISTER(0x6001F064u) = UNLOCK; /* timer group 0: WDTWPROTECT, WDTCONFIG0 */
    REGISTER(0x6001F048u) = 0;
    REGISTER(0x6001F064u) = 0;
    REGISTER(0x600080A8u) = UNLOCK; /* RTC: WDTWPROTECT, WDTCONFIG0 */
    REGISTER(0x60008090u) = 0;
    REGISTER(0x600080A8u) = 0;
    REGISTER(0x600080B0u) = UNLOCK_SUPER; /* the super watchdog can only feed itself */
    REGISTER(0x600080ACu) |= 1u << 31;
    REGISTER(0x600080B0u) = 0;
}

void port_board_start(void) {
    watchdogs();
    REGISTER(0x600C0058u) &= ~0x3FFu;            /* SYSCLK_CONF: the crystal, not divided */
    REGISTER(0x60004008u) = 1u << 4;             /* high before it drives */
    REGISTER(0x60004564u) = 0x80u;               /* GPIO4: the output register */
    REGISTER(0x60004024u) = 1u << 4;             /* enabled */
    REGISTER(0x60009014u) = 1u << 12 | 2u << 10; /* IO_MUX of GPIO4: GPIO, drive as after a reset */
}
