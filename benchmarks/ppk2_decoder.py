"""How many PPK2 samples a second the decoder takes on one core, in blocks as a serial port gives them.

python -m benchmarks.ppk2_decoder [--seconds 10]
"""

import argparse
import time

import numpy as np

from bitship.device.meters.ppk2_decoder import RATE_HZ, Calibration, Decoder

BLOCK_BYTES = 4093  # a pseudo terminal's, cut inside samples


def stream(samples: int) -> bytes:
    """Return samples with a right counter and random currents."""
    rng = np.random.default_rng(0)
    n = np.arange(samples)
    words = rng.integers(0, 1 << 14, samples) | rng.integers(0, 5, samples) << 14 | (n & 63) << 18
    return (words | rng.integers(0, 256, samples) << 24).astype("<u4").tobytes()


def rate(seconds: float) -> tuple[float, int]:
    """Return (samples decoded per second of processor time, samples said to be lost)."""
    data = stream(int(seconds * RATE_HZ))
    decoder = Decoder(Calibration().amps(3.3))
    start = time.process_time()
    for at in range(0, len(data), BLOCK_BYTES):
        decoder.feed(data[at : at + BLOCK_BYTES])
    decoder.amps()
    decoder.logic()
    return decoder.count / (time.process_time() - start), decoder.lost


def main() -> None:
    """Print the rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of a recording at 100 kS/s")
    found, lost = rate(parser.parse_args().seconds)
    print(
        f"{found / 1e6:.2f} MS/s of processor time, {found / RATE_HZ:.0f} times the meter's rate; {lost} samples lost"
    )


if __name__ == "__main__":
    main()
