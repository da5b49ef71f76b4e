#!/usr/bin/env python3
"""ExecuTorch's executor_runner as its users start it: flags in, output files and log lines out.

Models the flags bitship uses, the names of output files, and the log lines of new (every execution) and old runners
(``--old`` in the model's text). The "model" is a text file that says what to do with the first input. Does not model
anything of ExecuTorch: it adds one to every byte.
"""

import sys
from pathlib import Path


def main() -> int:
    """Do as the flags say."""
    flags = dict(word[2:].split("=", 1) for word in sys.argv[1:])
    model = Path(flags["model_path"]).read_text()
    if "broken" in model:
        print("E 00:00:00.000001 executorch:executor_runner.cpp:1] Loading of method forward failed", file=sys.stderr)
        return 1
    data = Path(flags["inputs"].split(",")[0]).read_bytes()
    count, head = int(flags["num_executions"]), "I 00:00:00.000002 executorch:executor_runner.cpp:2] "
    if "--old" not in model:
        print(f"{head}Model loaded in 1.250000 ms.")
        for i in range(count):
            print(f"{head}Iteration {i + 1} of {count}: {2 + i / 8:f} ms")
    print(f"{head}Model executed successfully {count} time(s) in {2.5 * count:f} ms.")
    Path(f"{flags['output_file']}-0.bin").write_bytes(bytes((b + 1) & 255 for b in data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
