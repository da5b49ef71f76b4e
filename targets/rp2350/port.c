/* Raspberry Pi Pico 2: 150 MHz from the 12 MHz crystal, UART0 on GP0 and GP1, marker on GP2; and the block by
 * which the ROM knows an image. */
#include "port.h"

/* IMAGE_DEF: an executable for the Arm cores, secure, of an RP2350; the last item; a list of one block. */
__attribute__((section(".vectors.image"), used)) static const uint32_t image_definition[5] = {
    0xFFFFDED3u, 0x10210142u, 0x000001FFu, 0x00000000u, 0xAB123579u};

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define CLEAR_BITS 0x3000u /* of the atomic aliases of every peripheral */
#define RESETS(offset) REGISTER(0x40020000u + (offset))
#define CLOCKS(offset) REGISTER(0x40010000u + (offset))
#define XOSC(offset) REGISTER(0x40048000u + (offset))
#define PLL(offset) REGISTER(0x40050000u + (offset))
#define QMI_TIMING REGISTER(0x400D000Cu)
#define PIN_FUNCTION(number) REGISTER(0x40028004u + 8u * (number))
#define PAD(number) REGISTER(0x40038004u + 4u * (number))
#define SIO(offset) REGISTER(0xD0000000u + (offset))

#define IO_BANK0 (1u << 6)
#define PADS_BANK0 (1u << 9)
#define PLL_SYS (1u << 14)
#define UART0 (1u << 26)

static void release(uint32_t bits) {
    RESETS(CLEAR_BITS) = bits;
    while ((RESETS(8u) & bits) != bits) {
    }
}

static void clocks(void) {
    XOSC(0x00u) = 0xAA0u; /* 1 to 15 MHz */
    XOSC(0x0Cu) = 47u;    /* about 1 ms */
    XOSC(0x00u) = 0xFABu << 12 | 0xAA0u;
    while ((XOSC(0x04u) & 1u << 31) == 0) {
    }
    CLOCKS(0x3Cu) = 0; /* the system from the reference */
    while ((CLOCKS(0x44u) & 1u) == 0) {
    }
    CLOCKS(0x30u) = 2u; /* the reference from the crystal */
    while ((CLOCKS(0x38u) & 4u) == 0) {
    }
    QMI_TIMING = (QMI_TIMING & ~0x7FFu) | 1u << 8 | 4u; /* flash at a quarter, sampled half a cycle later */
    release(PLL_SYS);
    PLL(0x00u) = 1u;
    PLL(0x08u) = 125u; /* 12 MHz * 125 / 5 / 2 */
    PLL(0x04u + CLEAR_BITS) = 1u | 1u << 5;
    while ((PLL(0x00u) & 1u << 31) == 0) {
    }
    PLL(0x0Cu) = 5u << 16 | 2u << 12;
    PLL(0x04u + CLEAR_BITS) = 1u << 3;
    CLOCKS(0x3Cu) = 1u; /* from the auxiliary source, which is the PLL */
    while ((CLOCKS(0x44u) & 2u) == 0) {
    }
    CLOCKS(0x48u) = 1u << 11 | 4u << 5; /* peripherals from the crystal */
}

/* Pads are isolated after a reset: the isolation goes last, with input enabled. */
static void pin(uint32_t number, uint32_t function) {
    PIN_FUNCTION(number) = function;
    PAD(number) = 1u << 6 | 1u << 4 | 1u << 1;
}

void port_board_start(void) {
    clocks();
    release(IO_BANK0 | PADS_BANK0 | UART0);
    pin(0u, 2u);
    pin(1u, 2u);
    SIO(0x18u) = 1u << 2; /* high before it drives */
    SIO(0x38u) = 1u << 2;
    pin(2u, 5u);
}
