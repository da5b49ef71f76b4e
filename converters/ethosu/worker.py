"""Vela in a process of its own, which answers one request after the other: what ends it, ends nobody else.

``python worker.py`` reads one JSON list of Vela's arguments a line and answers with one JSON text a line: empty when
Vela compiled, else the first line of why not.
"""

import contextlib
import io
import json
import os
import sys


def _compiled(arguments: list[str]) -> str:
    from ethosu.vela import vela

    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            vela.main(arguments)
    except SystemExit as e:
        lines = said.getvalue().strip().splitlines()
        return "" if e.code in (None, 0) else (lines[-1] if lines else f"status {e.code}")
    except Exception as e:
        return (str(e).strip().splitlines() or [type(e).__name__])[0]
    return ""


def main() -> None:
    """Serve until stdin ends; what Vela prints goes nowhere."""
    answers = os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    for line in sys.stdin:
        answers.write(json.dumps(_compiled(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
