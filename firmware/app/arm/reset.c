/* Reset and faults of any Cortex-M: vector table, core features. */
#include "port.h"

extern uint32_t __stack_top[];

void port_reset(void) __attribute__((noreturn));
void port_systick(void);
static void port_fault(void) __attribute__((noreturn));

typedef void (*vector)(void);

#if defined(BITSHIP_NPU_IRQ)
void bitship_npu_board_interrupt(void);
#endif

/* Initial stack pointer, then reset, NMI, HardFault and the rest of the sixteen system exceptions; of the
 * interrupts the NPU's, the last one there is. */
struct vector_table {
    uint32_t *stack;
    vector handlers[15];
#if defined(BITSHIP_NPU_IRQ)
    vector interrupts[BITSHIP_NPU_IRQ + 1];
#endif
};

__attribute__((section(".vectors"), used)) static const struct vector_table vectors = {
    __stack_top,
    {port_reset, port_fault, port_fault, port_fault, port_fault, port_fault, port_fault, port_fault,
     port_fault, port_fault, port_fault, port_fault, port_fault, port_fault, port_systick},
#if defined(BITSHIP_NPU_IRQ)
    {[BITSHIP_NPU_IRQ] = bitship_npu_board_interrupt},
#endif
};

static void port_fault(void) { port_exit(PORT_EXIT_FAULT); }

/* counter_systick.c has another. */
__attribute__((weak)) void port_systick(void) { port_exit(PORT_EXIT_FAULT); }

#define CCR (*(volatile uint32_t *)0xE000ED14u)
#define CPACR (*(volatile uint32_t *)0xE000ED88u)

void port_reset(void) {
#if defined(__ARM_FEATURE_MVE) || defined(__ARM_FP)
    CPACR |= 0xFu << 20; /* coprocessors 10 and 11: floating point and vector registers */
#endif
#if defined(__ARM_FEATURE_MVE)
    CCR |= 1u << 19; /* LOB: the low-overhead loop cache */
#endif
#if defined(__ARM_FEATURE_MVE) || defined(__ARM_FP)
    __asm__ volatile("dsb\n isb" ::: "memory");
#endif
    port_start();
}
