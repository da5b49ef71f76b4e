/* Raspberry Pi Pico: 125 MHz from the 12 MHz crystal, UART0 on GP0 and GP1, marker on GP2; and the second
 * stage of the boot, which the ROM copies to RAM and runs if its last word is the CRC-32 of the rest. */
#include "arm/rp2.h"
#include "port.h"

/* The second stage: the SSI reads flash by command 03h on one line, a quarter of the system clock; then it
 * hands over to the vector table behind itself. `half` emits one instruction and takes it into the sum
 * (polynomial 04C11DB7, all ones first, most significant bit first, no inversion), so that the assembler ends
 * the block with the right word. */
__asm__(
    ".pushsection .boot, \"a\"\n"
    ".set sum, 0xffffffff\n"
    ".macro octet value\n"
    ".set sum, sum ^ (((\\value) & 0xff) << 24)\n"
    ".rept 8\n"
    ".set sum, ((sum << 1) ^ (0x04c11db7 * ((sum >> 31) & 1))) & 0xffffffff\n"
    ".endr\n"
    ".endm\n"
    ".macro half value\n"
    ".short \\value\n"
    "octet (\\value)\n"
    "octet (\\value) >> 8\n"
    ".endm\n"
    ".macro word value\n"
    "half (\\value) & 0xffff\n"
    "half (\\value) >> 16\n"
    ".endm\n"
    "half 0x4b0d\n" /* 00 ldr r3, [pc, #52]  38: SSI */
    "half 0x2100\n" /* 02 movs r1, #0 */
    "half 0x6099\n" /* 04 str r1, [r3, #8]   SSIENR: off */
    "half 0x2104\n" /* 06 movs r1, #4 */
    "half 0x6159\n" /* 08 str r1, [r3, #20]  BAUDR */
    "half 0x490c\n" /* 0a ldr r1, [pc, #48]  3c: CTRLR0 */
    "half 0x6019\n" /* 0c str r1, [r3, #0] */
    "half 0x490c\n" /* 0e ldr r1, [pc, #48]  40: SPI_CTRLR0 */
    "half 0x480c\n" /* 10 ldr r0, [pc, #48]  44: its address */
    "half 0x6001\n" /* 12 str r1, [r0, #0] */
    "half 0x2100\n" /* 14 movs r1, #0 */
    "half 0x6059\n" /* 16 str r1, [r3, #4]   CTRLR1 */
    "half 0x2101\n" /* 18 movs r1, #1 */
    "half 0x6099\n" /* 1a str r1, [r3, #8]   SSIENR: on */
    "half 0x480a\n" /* 1c ldr r0, [pc, #40]  48: vector table */
    "half 0x490b\n" /* 1e ldr r1, [pc, #44]  4c: VTOR */
    "half 0x6008\n" /* 20 str r0, [r1, #0] */
    "half 0xc806\n" /* 22 ldmia r0, {r1, r2} */
    "half 0xf381\n" /* 24 msr MSP, r1 */
    "half 0x8808\n"
    "half 0x4710\n" /* 28 bx r2 */
    ".rept 7\n"
    "half 0xbf00\n" /* nop */
    ".endr\n"
    "word 0x18000000\n"
    "word 0x001f0300\n" /* 32 bits a frame, EEPROM reads */
    "word 0x03000218\n" /* command 03h of 8 bits, address of 24 */
    "word 0x180000f4\n"
    "word 0x10000100\n"
    "word 0xe000ed08\n"
    ".rept 43\n"
    "word 0\n"
    ".endr\n"
    ".long sum\n"
    ".popsection\n");

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define PIN_FUNCTION(number) REGISTER(0x40014004u + 8u * (number))
#define SIO(offset) REGISTER(0xD0000000u + (offset))

#define IO_BANK0 (1u << 5)
#define PADS_BANK0 (1u << 8)
#define UART0 (1u << 22)

static const struct rp2 chip = {0x4000C000u, 0x40008000u, 0x40024000u, 0x40028000u, 1u << 12};

void port_board_start(void) {
    rp2_crystal(&chip);
    rp2_system(&chip, 6u);
    rp2_release(&chip, IO_BANK0 | PADS_BANK0 | UART0);
    PIN_FUNCTION(0u) = 2u;
    PIN_FUNCTION(1u) = 2u;
    SIO(0x14u) = 1u << 2; /* high before it drives */
    SIO(0x24u) = 1u << 2;
    PIN_FUNCTION(2u) = 5u;
}
