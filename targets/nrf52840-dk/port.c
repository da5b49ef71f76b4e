/* nRF52840 DK: 64 MHz, serial port on P0.06 and P0.08, marker on P1.08. */
#include "arm/nrf52840.h"
#include "port.h"

void port_board_start(void) {
    nrf52840_start(NRF52840_PIN(0u, 6u), NRF52840_PIN(0u, 8u), NRF52840_PIN(1u, 8u));
}
