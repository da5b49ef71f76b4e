/* NUCLEO-H743ZI2: 400 MHz from the internal 64 MHz oscillator, USART3 on PD8 and PD9, marker on PG12. */
#include "arm/caches.h"
#include "port.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define RCC(offset) REGISTER(0x58024400u + (offset))
#define PWR(offset) REGISTER(0x58024800u + (offset))
#define PORT_D(offset) REGISTER(0x58020C00u + (offset))
#define PORT_G(offset) REGISTER(0x58021800u + (offset))
#define FLASH_ACR REGISTER(0x52002000u)

#define CR 0x00u
#define CFGR 0x10u

static void wait(const volatile uint32_t *address, uint32_t bits) {
    while ((*address & bits) != bits) {
    }
}

static void clocks(void) {
    PWR(0x0Cu) = (PWR(0x0Cu) & ~1u) | 2u; /* CR3: the LDO; the supply is fixed by the first write */
    wait(&PWR(0x04u), 1u << 13);          /* CSR1.ACTVOSRDY */
    PWR(0x18u) |= 3u << 14;               /* D3CR: voltage scale 1 */
    wait(&PWR(0x18u), 1u << 13);
    FLASH_ACR = 4u | 2u << 4; /* wait states and delay for 200 MHz, with room */
    while ((FLASH_ACR & 0xFu) != 4u) {
    }
    RCC(0x28u) = 4u << 4;            /* PLLCKSELR: HSI / 4 */
    RCC(0x2Cu) = 3u << 2 | 1u << 16; /* PLLCFGR: input of 8 to 16 MHz, wide oscillator, output P */
    RCC(0x30u) = 49u | 1u << 9 | 1u << 16 | 1u << 24; /* PLL1DIVR: * 50 / 2 */
    RCC(CR) |= 1u << 24;
    wait(&RCC(CR), 1u << 25);
    RCC(0x18u) = 8u | 4u << 4;      /* D1CFGR: buses at a half, APB3 a quarter of the core's clock */
    RCC(0x1Cu) = 4u << 4 | 4u << 8; /* D2CFGR: APB1 and APB2 the same */
    RCC(0x20u) = 4u << 4;           /* D3CFGR: APB4 too */
    RCC(CFGR) = 3u;                 /* from PLL1 */
    wait(&RCC(CFGR), 3u << 3);
}

void port_board_start(void) {
    clocks();
    caches_start();
    RCC(0xE0u) |= 1u << 3 | 1u << 6; /* AHB4ENR: ports D and G */
    (void)RCC(0xE0u);
    RCC(0x54u) = (RCC(0x54u) & ~7u) | 3u;             /* D2CCIP2R: USART3 from HSI */
    RCC(0xE8u) |= 1u << 18;                           /* APB1LENR: USART3 */
    PORT_D(0x24u) = (PORT_D(0x24u) & ~0xFFu) | 0x77u; /* AFRH: PD8, PD9 are function 7 */
    PORT_D(0x00u) = (PORT_D(0x00u) & ~(0xFu << 16)) | 0xAu << 16;
    PORT_G(0x18u) = 1u << 12; /* high before it drives */
    PORT_G(0x00u) = (PORT_G(0x00u) & ~(3u << 24)) | 1u << 24;
}
