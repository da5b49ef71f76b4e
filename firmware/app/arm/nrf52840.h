/* What the boards with an nRF52840 share: the crystal, the serial port's pins, the marker's pin. A pin's
 * number is its port times 32 and its place in it, as PSEL registers have it. */
#ifndef BITSHIP_NRF52840_H
#define BITSHIP_NRF52840_H

#include <stdint.h>

#define NRF52840_REGISTER(address) (*(volatile uint32_t *)(address))
#define NRF52840_PORT(pin) (0x50000000u + 0x300u * ((pin) >> 5))
#define NRF52840_PIN(port, place) ((port) << 5 | (place))

static inline void nrf52840_pin(uint32_t pin, uint32_t configuration) {
    NRF52840_REGISTER(NRF52840_PORT(pin) + 0x700u + 4u * (pin & 31u)) = configuration; /* PIN_CNF */
}

/* An output that is high before it drives; its input buffer is off. */
static inline void nrf52840_output(uint32_t pin) {
    NRF52840_REGISTER(NRF52840_PORT(pin) + 0x508u) = 1u << (pin & 31u); /* OUTSET */
    nrf52840_pin(pin, 3u);
}

static inline void nrf52840_start(uint32_t transmit, uint32_t receive, uint32_t marker) {
    NRF52840_REGISTER(0x4001E540u) = 1; /* NVMC.ICACHECNF */
    NRF52840_REGISTER(0x40000100u) = 0;
    NRF52840_REGISTER(0x40000000u) =
        1; /* the crystal: the internal oscillator is too far off for a UART at speed */
    while (NRF52840_REGISTER(0x40000100u) == 0) {
    }
    nrf52840_output(transmit);
    nrf52840_pin(receive, 3u << 2);            /* input, pulled up */
    NRF52840_REGISTER(0x40002508u) = ~0u;      /* RTS: none */
    NRF52840_REGISTER(0x4000250Cu) = transmit; /* TXD */
    NRF52840_REGISTER(0x40002510u) = ~0u;      /* CTS: none */
    NRF52840_REGISTER(0x40002514u) = receive;  /* RXD */
    nrf52840_output(marker);
}

/* Exceptions by the image's own table, not by that of the loader before it. */
static inline void nrf52840_own_vectors(void) {
    extern uint32_t __vectors[];
    NRF52840_REGISTER(0xE000ED08u) = (uint32_t)(uintptr_t)__vectors; /* VTOR */
}

#endif
