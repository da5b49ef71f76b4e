"""What hangs on this machine: ports, probes, phones, UF2 drives; all sources are asked at once, with one deadline."""

import json
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from bitship import targets
from bitship.device.flash import uf2
from bitship.device.process import find_tool, run_tool
from bitship.errors import BitshipError, MissingDependencyError
from bitship.targets import Target, TargetKind
from bitship.targets.flashers import PyocdTool, Uf2Tool

DEADLINE_SECONDS = 15.0
BY_ID = Path("/dev/serial/by-id")
MDNS_SECONDS = 3.0
MDNS_SERVICES = ("_ssh._tcp.local.", "_adb-tls-connect._tcp.local.")


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was seen, or a source that could not look.

    where    its port, id or path; targets  those its USB ids, or its label, belong to
    keys     what devices.toml would say of it: driver tables by their key
    serial   of the USB device: a probe and its serial port have the same
    problem  why a source saw nothing; then nothing else is set
    """

    source: str
    where: str = ""
    what: str = ""
    targets: tuple[str, ...] = ()
    keys: dict[str, dict[str, str]] = {}
    serial: str = ""
    problem: str = ""


def scan(mdns: bool = False, deadline_s: float = DEADLINE_SECONDS) -> list[Found]:
    """Ask every source at once; one that fails or is late is a row that says so. Never longer than the deadline.

    mdns  also ask the local network for computers (it opens a port to all of it)
    """
    sources: dict[str, Callable[[], list[Found]]] = {
        "serial port": serial_ports,
        "debug probe": debug_probes,
        "adb": phones,
        "UF2 drive": drives,
    }
    if mdns:
        sources["network"] = network
    answers: queue.Queue[tuple[str, list[Found]]] = queue.Queue()
    for name, look in sources.items():
        threading.Thread(target=_ask, args=(name, look, answers), daemon=True).start()
    found: dict[str, list[Found]] = {}
    end = time.monotonic() + deadline_s
    while len(found) < len(sources):
        try:
            name, rows = answers.get(timeout=max(0.001, end - time.monotonic()))
        except queue.Empty:
            break
        found[name] = rows
    late = {name: [Found(source=name, problem=f"no answer within {deadline_s:g} s")] for name in sources}
    return [row for name in sources for row in found.get(name, late[name])]


def _ask(name: str, look: Callable[[], list[Found]], answers: "queue.Queue[tuple[str, list[Found]]]") -> None:
    try:
        answers.put((name, look()))
    except MissingDependencyError as e:
        answers.put((name, [Found(source=name, problem=str(e))]))
    except (BitshipError, OSError, ValueError, KeyError, TypeError) as e:
        answers.put((name, [Found(source=name, problem=f"{type(e).__name__}: {e}"[:300])]))


def _known() -> list[Target]:
    return [targets.load(n) for n in targets.names()]


def serial_ports() -> list[Found]:
    """Return the serial ports with a USB id, and those of other kinds that exist."""
    from serial.tools import list_ports

    known, found = _known(), []
    for port in sorted(list_ports.comports(), key=lambda p: str(p.device)):
        usb = f"{port.vid:04x}:{port.pid:04x}" if port.vid is not None and port.pid is not None else ""
        path = stable_name(str(port.device))
        found.append(
            Found(
                source="serial port",
                where=path,
                what=" ".join(x for x in (usb, port.description or "") if x and x != "n/a"),
                targets=tuple(t.name for t in known if usb and usb in t.usb),
                keys={"console": {"driver": "serial", "port": path}},
                serial=port.serial_number or "",
            )
        )
    return found


def stable_name(device: str, folder: Path | None = None) -> str:
    """Return the name by id of a port, which stays when others are plugged in; the device itself without one."""
    try:
        links = sorted((folder or BY_ID).iterdir())
    except OSError:
        return device
    return next((str(p) for p in links if p.resolve() == Path(device).resolve()), device)


def debug_probes() -> list[Found]:
    """Return the probes pyOCD sees."""
    tool = find_tool("pyocd", "pip install 'bitship[flash]'")
    answer = json.loads(run_tool([tool, "json", "--probes", "--no-config"], DEADLINE_SECONDS - 1))
    known, found = _known(), []
    for probe in answer["boards"]:
        chip = str(probe.get("target") or "")
        names = (t.name for t in known for f in t.flashers if isinstance(f, PyocdTool) and f.target == chip)
        found.append(
            Found(
                source="debug probe",
                where=str(probe["unique_id"]),
                what=" ".join(str(probe.get(k) or "") for k in ("vendor_name", "product_name", "board_name")).strip(),
                targets=tuple(dict.fromkeys(names)),
                keys={"flasher": {"driver": "pyocd", "probe": str(probe["unique_id"])}},
                serial=str(probe["unique_id"]),
            )
        )
    return found


def phones() -> list[Found]:
    """Return what adb lists; one that is not ready says what it waits for."""
    said = run_tool([find_tool("adb", "apt-get install adb"), "devices", "-l"], DEADLINE_SECONDS - 1)
    found = []
    for line in said.splitlines():
        words = line.split()
        if len(words) < 2 or line.startswith(("List of", "*")):
            continue
        serial, state = words[:2]
        model = next((w.split(":", 1)[1] for w in words if w.startswith("model:")), "")
        ready = state == "device"
        found.append(
            Found(
                source="adb",
                where=serial,
                what=model if ready else f"{model} {state}: allow this computer on the phone's screen".strip(),
                targets=tuple(t.name for t in _known() if t.kind is TargetKind.ANDROID) if ready else (),
                keys={"transfer": {"driver": "adb", "serial": serial}},
            )
        )
    return found


def drives() -> list[Found]:
    """Return mounted UF2 drives."""
    found = []
    for volume in uf2.volumes():
        text = (volume / uf2.INFO).read_text(errors="replace")[:4096]
        board = re.search(r"Board-ID: *(.*)", text)
        names = (t.name for t in _known() for f in t.flashers if isinstance(f, Uf2Tool) and volume.name in f.labels)
        found.append(
            Found(
                source="UF2 drive",
                where=str(volume),
                what=board[1].strip() if board else "",
                targets=tuple(names),
                keys={"flasher": {"driver": "uf2"}},
            )
        )
    return found


def network() -> list[Found]:
    """Return computers and phones that announce ssh or adb by mDNS."""
    try:
        import zeroconf
    except ImportError:
        raise MissingDependencyError("zeroconf: not installed; pip install zeroconf") from None
    names: set[tuple[str, str]] = set()

    class Listener(zeroconf.ServiceListener):  # type: ignore[misc, unused-ignore]
        def add_service(self, zc: object, type_: str, name: str) -> None:
            names.add((type_, name.removesuffix("." + type_)))

        def update_service(self, zc: object, type_: str, name: str) -> None:
            self.add_service(zc, type_, name)

        def remove_service(self, zc: object, type_: str, name: str) -> None:
            names.discard((type_, name.removesuffix("." + type_)))

    zc = zeroconf.Zeroconf()
    try:
        zeroconf.ServiceBrowser(zc, list(MDNS_SERVICES), Listener())
        time.sleep(MDNS_SECONDS)
    finally:
        zc.close()
    return [
        Found(
            source="network",
            where=f"{name}.local" if "ssh" in kind else name,
            what=kind.split(".")[0].lstrip("_"),
            keys={"transfer": {"driver": "ssh", "host": f"{name}.local"}} if "ssh" in kind else {},
        )
        for kind, name in sorted(names)
    ]


def entries(found: Sequence[Found]) -> str:
    """Return entries for devices.toml: a probe and its serial port are one unit; what is not known is a comment."""
    rows = [f for f in found if f.keys and not f.problem]
    units: list[list[Found]] = []
    for row in rows:
        same = next((u for u in units if row.serial and u[0].serial == row.serial), None)
        if same is None:
            units.append([row])
        else:
            same.append(row)
    taken: dict[str, int] = {}
    return "\n".join(_entry(unit, taken) for unit in units if any(f.targets or "transfer" in f.keys for f in unit))


def _entry(unit: Sequence[Found], taken: dict[str, int]) -> str:
    names = _common([f.targets for f in unit if f.targets])
    target = names[0] if names else "?"
    stem = target if names else "unit"
    number = taken[stem] = taken.get(stem, 0) + 1
    lines = ["[[device]]", f'name = "{stem}-{number}"', f"target = {_text(target)}"]
    if len(names) != 1:
        lines[-1] += f"  # or: {', '.join(names[1:])}" if names else "  # bitship targets lists them"
    for row in unit:
        for key, table in row.keys.items():
            body = ", ".join(f"{k} = {_text(v)}" for k, v in table.items())
            lines.append(f"{key} = {{ {body} }}")
    return "\n".join(lines) + "\n"


def _common(lists: Iterable[tuple[str, ...]]) -> list[str]:
    """Return the names in all lists, else in any."""
    tables = list(lists)
    both = [n for n in (tables[0] if tables else ()) if all(n in t for t in tables)]
    return both or list(dict.fromkeys(n for t in tables for n in t))


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
