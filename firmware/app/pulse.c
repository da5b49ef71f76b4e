#include "pulse.h"

#include "port.h"
#include "text.h"

#define PULSE_US 100 /* long enough for a meter of 100,000 samples a second to see it */

uint64_t microseconds(uint64_t ticks) {
#if defined(BITSHIP_COUNTER_HZ)
    uint32_t rest, more;
    const uint64_t seconds = text_divide(ticks, BITSHIP_COUNTER_HZ, &rest);
    return seconds * 1000000u + text_divide((uint64_t)rest * 1000000u, BITSHIP_COUNTER_HZ, &more);
#else
    return ticks;
#endif
}

void pulse(void) {
    const uint64_t start = port_ticks();
    port_marker(0);
    for (int32_t i = 0; i < 1000000 && microseconds(port_ticks() - start) < PULSE_US; i++) {
    }
    port_marker(1);
}
