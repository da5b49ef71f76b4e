/* Raspberry Pi Pico 2: 150 MHz from the 12 MHz crystal, UART0 on GP0 and GP1, marker on GP2; and the block by
 * which the ROM knows an image. */
#include "arm/rp2.h"
#include "port.h"

/* IMAGE_DEF: an executable for the Arm cores, secure, of an RP2350; the last item; a list of one block. */
__attribute__((section(".vectors.image"), used)) static const uint32_t image_definition[5] = {
    0xFFFFDED3u, 0x10210142u, 0x000001FFu, 0x00000000u, 0xAB123579u};

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define QMI_TIMING REGISTER(0x400D000Cu)
#define PIN_FUNCTION(number) REGISTER(0x40028004u + 8u * (number))
#define PAD(number) REGISTER(0x40038004u + 4u * (number))
#define SIO(offset) REGISTER(0xD0000000u + (offset))

#define IO_BANK0 (1u << 6)
#define PADS_BANK0 (1u << 9)
#define UART0 (1u << 26)

static const struct rp2 chip = {0x40020000u, 0x40010000u, 0x40048000u, 0x40050000u, 1u << 14};

/* Pads are isolated after a reset: the isolation goes last, with input enabled. */
static void pin(uint32_t number, uint32_t function) {
    PIN_FUNCTION(number) = function;
    PAD(number) = 1u << 6 | 1u << 4 | 1u << 1;
}

void port_board_start(void) {
    rp2_crystal(&chip);
    QMI_TIMING = (QMI_TIMING & ~0x7FFu) | 1u << 8 | 4u; /* flash at a quarter, sampled half a cycle later */
    rp2_system(&chip, 5u);
    rp2_release(&chip, IO_BANK0 | PADS_BANK0 | UART0);
    pin(0u, 2u);
    pin(1u, 2u);
    SIO(0x18u) = 1u << 2; /* high before it drives */
    SIO(0x38u) = 1u << 2;
    pin(2u, 5u);
}
