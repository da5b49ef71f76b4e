"""How deep the stack of an image can get.

Who calls whom is gcc's report (``-fcallgraph-info=su``). A frame is the larger of what gcc reports and what the
function's instructions take off the stack pointer: gcc knows nothing of assembly, nor of its last spills.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from bitship.errors import TargetError

FLAG = "-fcallgraph-info=su"
LIBRARY_FRAME = 32  # bytes assumed of a function without a report: memcpy, memset and the compiler's own helpers

_NODE = re.compile(r'node: \{ title: "([^"]+)" label: "([^"]*)"')
_EDGE = re.compile(r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"')
_FRAME = re.compile(r"\\n(\d+) bytes \((\w+)[^)]*\)")
_FUNCTION = re.compile(r"^[0-9a-f]+ <([^>]+)>:$", re.MULTILINE)
_PUSH = re.compile(r"\t(v?)(?:push|stmdb(?:\.w)?\tsp!,|stmfd\tsp!,|pushdb\tsp!,)\s*\{([^}]*)\}")
_TAKE = re.compile(r"\t(?:subw?(?:\.w)?\tsp, (?:sp, )?#|addi\tsp,sp,-|strd?(?:\.w)?\t.*\[sp, #-)(\d+)")
_INDIRECT = "__indirect_call"


@dataclass
class CallGraph:
    """Frames in bytes by function, and who calls whom."""

    frames: dict[str, int] = field(default_factory=dict)
    calls: dict[str, set[str]] = field(default_factory=dict)

    def read(self, text: str) -> None:
        """Add one compilation's report; TargetError for a frame whose size depends on data."""
        for name, label in _NODE.findall(text):
            frame = _FRAME.search(label)
            if frame is not None:
                if frame[2] != "static":
                    raise TargetError(f"{name}: its stack frame is {frame[2]}, a constant one is needed")
                self.frames[name] = int(frame[1])
        for caller, callee in _EDGE.findall(text):
            self.calls.setdefault(caller, set()).add(callee)

    def read_code(self, disassembly: str) -> None:
        """Raise frames to what each function's instructions take, from ``objdump -d --no-show-raw-insn``."""
        parts = _FUNCTION.split(disassembly)
        taken: dict[str, int] = {}
        for name, body in zip(parts[1::2], parts[2::2], strict=True):
            taken[name] = max(taken.get(name, 0), _taken(body))
        for name in {*self.frames, *(c for callees in self.calls.values() for c in callees)}:
            symbol = name.rpartition(":")[2]
            found = [n for s, n in taken.items() if s == symbol or s.startswith(f"{symbol}.")]
            if found:
                self.frames[name] = max(self.frames.get(name, 0), *found)

    def deepest(self, entry: str) -> int:
        """Return the most stack that a call of ``entry`` takes.

        An indirect call may reach every static function (its name follows its file's) that no call names: one that
        the compiler kept because its address is taken.
        """
        called = set().union(*self.calls.values()) if self.calls else set()
        unnamed = sorted(f for f in self.frames if ":" in f and f not in called and f != entry)
        return self._depth(entry, unnamed, (), {})

    def _depth(self, name: str, unnamed: list[str], path: tuple[str, ...], known: dict[str, int]) -> int:
        if name in path:
            raise TargetError(f"{name}: calls itself, the depth of the stack has no bound")
        if name not in known:
            callees = self.calls.get(name, set())
            targets = (callees - {_INDIRECT}) | (
                {f for f in unnamed if f not in path} if _INDIRECT in callees else set()
            )
            below = max((self._depth(t, unnamed, (*path, name), known) for t in sorted(targets)), default=0)
            known[name] = self.frames.get(name, LIBRARY_FRAME) + below
        return known[name]


def _taken(body: str) -> int:
    """Return the bytes that a function's instructions take off the stack pointer, all paths together."""
    total = sum(int(n) for n in _TAKE.findall(body))
    for vector, registers in _PUSH.findall(body):
        for part in registers.replace(" ", "").split(","):
            first, _, last = part.partition("-")
            count = int(last[1:]) - int(first[1:]) + 1 if last else 1
            total += count * (8 if vector and part[0] == "d" else 4)
    return total


def take_reports(folder: Path) -> CallGraph:
    """Read and remove the reports that a compilation left in a folder."""
    graph = CallGraph()
    for path in sorted(folder.glob("*.ci")):
        graph.read(path.read_text())
        path.unlink()
    return graph
