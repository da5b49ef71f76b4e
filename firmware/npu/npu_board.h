/* What a board does before its NPU is opened. */
#ifndef BITSHIP_NPU_BOARD_H
#define BITSHIP_NPU_BOARD_H

/* Initialise the driver with the registers and the interrupt that target.toml names; an enum
 * bitship_npu_status. */
int bitship_npu_board_start(void);

/* The interrupt's handler, which the vector table names. */
void bitship_npu_board_interrupt(void);

#endif
