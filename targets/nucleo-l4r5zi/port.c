/* NUCLEO-L4R5ZI: 120 MHz from the internal 16 MHz oscillator, LPUART1 on PG7 and PG8, marker on PF13. */
#include "port.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define RCC(offset) REGISTER(0x40021000u + (offset))
#define PWR(offset) REGISTER(0x40007000u + (offset))
#define PORT_F(offset) REGISTER(0x48001400u + (offset))
#define PORT_G(offset) REGISTER(0x48001800u + (offset))
#define FLASH_ACR REGISTER(0x40022000u)

#define CR 0x00u
#define CFGR 0x08u
#define PLLCFGR 0x0Cu

static void clocks(void) {
    RCC(0x58u) |= 1u << 28; /* APB1ENR1: PWR */
    (void)RCC(0x58u);
    PWR(0x80u) &= ~(1u << 8);           /* CR5.R1MODE: boost, for more than 80 MHz */
    FLASH_ACR = 5u | 1u << 8 | 3u << 9; /* 5 wait states, prefetch, both caches */
    while ((FLASH_ACR & 0xFu) != 5u) {
    }
    RCC(CR) |= 1u << 8; /* HSI16 on */
    while ((RCC(CR) & 1u << 10) == 0) {
    }
    RCC(PLLCFGR) = 2u | 1u << 4 | 30u << 8 | 1u << 24; /* HSI16 / 2 * 30 / 2 */
    RCC(CR) |= 1u << 24;
    while ((RCC(CR) & 1u << 25) == 0) {
    }
    RCC(CFGR) = 8u << 4 | 3u; /* at half speed first */
    while ((RCC(CFGR) & 0xCu) != 0xCu) {
    }
    for (volatile int i = 0; i < 100; i++) { /* more than the 1 us that the regulator needs */
    }
    RCC(CFGR) = 3u;
}

void port_board_start(void) {
    clocks();
    RCC(0x4Cu) |= 1u << 5 | 1u << 6; /* AHB2ENR: ports F and G */
    (void)RCC(0x4Cu);
    PWR(0x04u) |= 1u << 9;                                      /* CR2.IOSV: port G has a supply of its own */
    RCC(0x88u) = (RCC(0x88u) & ~(3u << 10)) | 2u << 10;         /* CCIPR: LPUART1 from HSI16 */
    RCC(0x5Cu) |= 1u;                                           /* APB1ENR2: LPUART1 */
    PORT_G(0x20u) = (PORT_G(0x20u) & ~(0xFu << 28)) | 8u << 28; /* AFRL: PG7 is function 8 */
    PORT_G(0x24u) = (PORT_G(0x24u) & ~0xFu) | 8u;               /* AFRH: PG8 too */
    PORT_G(0x00u) = (PORT_G(0x00u) & ~(0xFu << 14)) | 0xAu << 14;
    PORT_F(0x18u) = 1u << 13; /* high before it drives */
    PORT_F(0x00u) = (PORT_F(0x00u) & ~(3u << 26)) | 1u << 26;
}
