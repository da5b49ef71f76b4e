#!/usr/bin/env python3
"""LiteRT's benchmark_model as its users start it: flags in, log lines out.

Models the flags bitship uses and the lines that say times and memory, as newer tools print them (memory as a delta,
``INFO: `` before each) and, with ``--old`` in the model's bytes, older ones. Does not run the model: the times are
made from the flags.
"""

import sys
from pathlib import Path

_NOTE = "Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE"


def main() -> int:
    """Do as the flags say."""
    flags = dict(word[2:].split("=", 1) for word in sys.argv[1:])
    model = Path(flags["graph"]).read_bytes()
    if b"broken" in model:
        print("ERROR: Failed to load model " + flags["graph"], file=sys.stderr)
        return 1
    old = b"--old" in model
    head = "" if old else "INFO: "
    runs, warmup = int(flags["num_runs"]), int(flags["warmup_runs"])
    assert float(flags["min_secs"]) < 1, "without it the tool adds runs for a second"
    print(f"{head}STARTING!")
    print(f"{head}Graph: [{flags['graph']}]")
    print(f"{head}Initialized session in 0.855ms.")
    print(f"{head}count={warmup} first=3000 curr=1100 min=1000 max=3000 avg=1700.5 std=20\n")
    print(f"{head}count={runs} first=1210 curr=1200 min=1190 max=1300 avg=1234.5 std=9\n")
    average = "1234.5" if "use_gpu" not in flags else "9.5e+02"
    timings = f"Init: 855, First inference: 3000, Warmup (avg): 1700.5, Inference (avg): {average}"
    print(f"{head}Inference timings in us: {timings}")
    print(f"{head}{_NOTE}")
    memory = "Peak memory footprint (MB)" if old else "Memory footprint delta from the start of the tool (MB)"
    print(f"{head}{memory}: init=8.97656 overall=18.7227")
    return 0


if __name__ == "__main__":
    sys.exit(main())
