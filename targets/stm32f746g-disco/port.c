/* 32F746GDISCOVERY: 216 MHz from the internal 16 MHz oscillator, USART1 on PA9 and PB7, marker on PI3. */
#include "arm/caches.h"
#include "port.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define RCC(offset) REGISTER(0x40023800u + (offset))
#define PWR(offset) REGISTER(0x40007000u + (offset))
#define PORT_A(offset) REGISTER(0x40020000u + (offset))
#define PORT_B(offset) REGISTER(0x40020400u + (offset))
#define PORT_I(offset) REGISTER(0x40022000u + (offset))
#define FLASH_ACR REGISTER(0x40023C00u)

#define CR 0x00u
#define PLLCFGR 0x04u
#define CFGR 0x08u

static void wait(const volatile uint32_t *address, uint32_t bits) {
    while ((*address & bits) != bits) {
    }
}

static void clocks(void) {
    RCC(0x40u) |= 1u << 28; /* APB1ENR: PWR */
    (void)RCC(0x40u);
    RCC(PLLCFGR) = 16u | 432u << 6 | 9u << 24; /* HSI / 16 * 432 / 2 */
    RCC(CR) |= 1u << 24;
    wait(&RCC(CR), 1u << 25);
    PWR(0x00u) |= 1u << 16; /* CR1.ODEN: overdrive, for more than 180 MHz */
    wait(&PWR(0x04u), 1u << 16);
    PWR(0x00u) |= 1u << 17;
    wait(&PWR(0x04u), 1u << 17);
    FLASH_ACR = 7u | 1u << 8 | 1u << 9; /* 7 wait states, prefetch, accelerator */
    while ((FLASH_ACR & 0xFu) != 7u) {
    }
    RCC(CFGR) = 5u << 10 | 4u << 13 | 2u; /* APB1 a quarter, APB2 a half, from the PLL */
    wait(&RCC(CFGR), 2u << 2);
}

void port_board_start(void) {
    clocks();
    caches_start();
    RCC(0x30u) |= 1u | 1u << 1 | 1u << 8; /* AHB1ENR: ports A, B, I */
    (void)RCC(0x30u);
    RCC(0x90u) = (RCC(0x90u) & ~3u) | 2u;                     /* DCKCFGR2: USART1 from HSI */
    RCC(0x44u) |= 1u << 4;                                    /* APB2ENR: USART1 */
    PORT_A(0x24u) = (PORT_A(0x24u) & ~(0xFu << 4)) | 7u << 4; /* AFRH: PA9 is function 7 */
    PORT_A(0x00u) = (PORT_A(0x00u) & ~(3u << 18)) | 2u << 18;
    PORT_B(0x20u) = (PORT_B(0x20u) & ~(0xFu << 28)) | 7u << 28; /* AFRL: PB7 too */
    PORT_B(0x00u) = (PORT_B(0x00u) & ~(3u << 14)) | 2u << 14;
    PORT_I(0x18u) = 1u << 3; /* high before it drives */
    PORT_I(0x00u) = (PORT_I(0x00u) & ~(3u << 6)) | 1u << 6;
}
