/* CRC-32 of IEEE 802.3: what every transfer is checked with. */
#ifndef BITSHIP_CRC_H
#define BITSHIP_CRC_H

#include <stdint.h>

/* The crc of what `crc` is the crc of, followed by `bytes` of data; 0 to begin with. */
uint32_t crc32(uint32_t crc, const void *data, int32_t bytes);

#endif
