#include "pulse.h"

#include "port.h"
#include "text.h"
#include "work.h"

#define PULSE_US 100 /* long enough for a meter of 100,000 samples a second to see it */

uint64_t microseconds(uint64_t ticks) {
#if defined(WORK_HZ)
    uint32_t rest, more;
    const uint64_t seconds = text_divide(ticks, WORK_HZ, &rest);
    return seconds * 1000000u + text_divide((uint64_t)rest * 1000000u, WORK_HZ, &more);
#else
    return ticks;
#endif
}

void pulse(void) {
    const uint64_t start = work_ticks();
    port_marker(0);
    for (int32_t i = 0; i < 1000000 && microseconds(work_ticks() - start) < PULSE_US; i++) {
    }
    port_marker(1);
}
