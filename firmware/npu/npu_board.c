/* An Ethos-U on a Cortex-M: Arm's driver at BITSHIP_NPU, its interrupt BITSHIP_NPU_IRQ. Caches stay as the
 * reset left them, off. */
#include "npu_board.h"

#include <stddef.h>
#include <stdint.h>

#include "ethosu_driver.h" /* Arm's, of the driver that is linked */
#include "npu.h"

#define SEMAPHORES 4 /* the driver makes two for one NPU */

static struct ethosu_driver driver;
static uint32_t semaphores[SEMAPHORES];
static int semaphores_made;

/* The driver's own would take it from a heap; a counter at the start of what this gives is all its functions
 * need. */
void *ethosu_semaphore_create(void) {
    return semaphores_made < SEMAPHORES ? &semaphores[semaphores_made++] : NULL;
}

void bitship_npu_board_interrupt(void) { ethosu_irq_handler(&driver); }

int bitship_npu_board_start(void) {
    if (ethosu_init(&driver, (void *)(uintptr_t)BITSHIP_NPU, NULL, 0, 1, 1) != 0) {
        return BITSHIP_NPU_ABSENT;
    }
#if defined(__ARM_ARCH_PROFILE) && __ARM_ARCH_PROFILE == 'M'
    *(volatile uint32_t *)(0xE000E100u + BITSHIP_NPU_IRQ / 32u * 4u) = 1u << BITSHIP_NPU_IRQ % 32u; /* ISER */
#endif
    return BITSHIP_NPU_OK;
}
