"""One model through every way to a device there is, each to a report of its own: the harness beside its judges.

    python -m benchmarks.every_path --data FOLDER --out DIR [--only emulated serial ssh adb labgrid hub]

Emulated cores through files and through their serial ports; this machine through OpenSSH's own daemon, and through
adb to a stand-in of its daemon; two emulated boards behind labgrid's own daemons; an emulated
board flashed by pyocd and by openocd through a stand-in of its debug port; a stand-in of Qualcomm's hub behind
its own client (with a network of its own, and the times it tells are made up). Everything is on loopback. Needs the
source tree: the stand-ins are in tests/standins. What is not installed is fetched by pip or apt where it can be.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import bitship
from bitship import report as reports
from bitship.cli.output import table
from bitship.report import Report, number, summarize
from bitship.report.tables import bits
from bitship.targets import Application, ConverterName

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import tool_install
from standins import adbd, hub_lab, lab, sshd
from standins.machine import Machine
from standins.probe import Probe

ROOT = Path(__file__).resolve().parents[1]
FLASH_REQUIREMENTS = ("pyocd==0.46.*",)
BITBANG = """commands = [
    "adapter driver remote_bitbang", "remote_bitbang host 127.0.0.1", "remote_bitbang port {port}",
    "transport select jtag",
]
"""
KWS = Path("mlperf_tiny") / "kws01_dscnn_int8.tflite"


class Paths:
    """What every path needs: the model, a folder for scratch, where reports go."""

    def __init__(self, data: Path, out: Path, scratch: Path, stack: ExitStack) -> None:
        self.data, self.out, self.scratch, self.stack = data, out, scratch, stack
        self.env = dict(os.environ)

    def bench(self, name: str, *words: str, devices: Path | None = None) -> list[Report]:
        """Run ``bitship bench`` and return its reports; raises with what it said when it fails."""
        env = {**self.env, "BITSHIP_DATA": str(self.data), "BITSHIP_DEVICES": str(devices or "")}
        html = self.out / f"{name}.html"
        command = [sys.executable, "-m", "bitship", "bench", *words, "--html", str(html)]
        print(f"$ bitship {' '.join(command[3:])}", flush=True)
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1200)
        if done.returncode != 0:
            raise RuntimeError(f"{name}: exit status {done.returncode}: {done.stderr.strip()}")
        if words[0].endswith(".toml"):
            from bitship import campaign

            return campaign.reports(campaign.read(Path(words[words.index("-o") + 1])))
        return reports.load(Path(words[words.index("-o") + 1]))

    def suite(self, name: str) -> list[Report]:
        file = ROOT / "benchmarks" / "suites" / f"{name}.toml"
        return self.bench(name, str(file), "-o", str(self.scratch / name))

    def package(self, target: str, converter: ConverterName | None = None, app: Application | None = None) -> Path:
        out = self.scratch / f"{target}-{app.value if app else 'program'}" / "kws01"
        if not out.is_dir():
            bitship.export(self.data / KWS, target, out, converter=converter, application=app)
        return out

    def one(self, name: str, package: Path, devices: str, device: str) -> list[Report]:
        file = self.scratch / f"{name}.toml"
        file.write_text(devices)
        words = [str(package), "-d", device, "--runs", "20", "-o", str(self.out / f"{name}.json")]
        return self.bench(name, *words, devices=file)


def emulated(p: Paths) -> list[Report]:
    return p.suite("emulated")


def serial(p: Paths) -> list[Report]:
    return p.suite("serial")


def _there(p: Paths, name: str) -> Path:
    folder = p.scratch / name
    folder.mkdir()
    return folder


def ssh(p: Paths) -> list[Report]:
    tool_install.apt_program("sshd", "openssh-server")
    d = p.stack.enter_context(sshd.sshd(p.scratch / "sshd"))
    reach = f'host = "127.0.0.1", port = {d.port}, user = "{d.user}", key = "{d.key}", known_hosts = "{d.known_hosts}"'
    transfer = f'{{ driver = "ssh", {reach}, folder = "{_there(p, "ssh-there")}" }}'
    unit = f'[[device]]\nname = "board"\ntarget = "linux-x86-64"\ntransfer = {transfer}\n'
    return p.one("ssh", p.package("linux-x86-64", ConverterName.FIRMWARE), unit, "board")


def adb(p: Paths) -> list[Report]:
    program = tool_install.apt_program("adb", "adb")
    d = p.stack.enter_context(adbd.adbd())
    port = sshd.free_port()
    p.stack.callback(subprocess.run, [program, "-P", str(port), "kill-server"], capture_output=True, check=False)
    reach = f'serial = "{d.serial}", server_port = {port}, folder = "{_there(p, "adb-there")}"'
    unit = f'[[device]]\nname = "phone"\ntarget = "linux-x86-64"\ntransfer = {{ driver = "adb", {reach} }}\n'
    return p.one("adb", p.package("linux-x86-64", ConverterName.FIRMWARE), unit, "phone")


def labgrid(p: Paths) -> list[Report]:
    tool_install.apt_program("ser2net", "ser2net")
    client = tool_install.pip_program("labgrid-client", "labgrid==26.0.1")
    made = lab.Lab(_there(p, "lab"), client, p.stack)
    return p.one("labgrid", p.package(lab.BOARD, app=Application.SERIAL), made.devices.read_text(), "m4")


def probes(p: Paths) -> list[Report]:
    """Flash the micro:bit by pyocd, then by openocd, through a stand-in of its debug port; each time it then runs."""
    tools = tool_install.environment("pyocd", *FLASH_REQUIREMENTS)
    openocd = Path(tool_install.apt_program("openocd", "openocd")).parent
    p.env["PATH"] = os.pathsep.join([str(tools), str(openocd), p.env["PATH"]])
    package, line, found = p.package("microbit", app=Application.SERIAL), sshd.free_port(), []
    machine = p.stack.enter_context(Machine("microbit", ("-serial", f"tcp:127.0.0.1:{line},server=on,wait=off")))
    for tool in ("pyocd", "openocd"):
        probe = p.stack.enter_context(Probe(tool, machine))
        flasher = f'driver = "pyocd"\nprobe = "remote:127.0.0.1:{probe.port}"\n'
        if tool == "openocd":
            config = ROOT / "tests" / "standins" / "nrf51_jtag.cfg"
            flasher = f'driver = "openocd"\nconfig = ["{config}"]\n{BITBANG.format(port=probe.port)}'
        console = f'{{ driver = "serial", port = "socket://127.0.0.1:{line}" }}'
        unit = f'[[device]]\nname = "by-{tool}"\ntarget = "microbit"\nconsole = {console}\n[device.flasher]\n{flasher}'
        found += p.one(tool, package, unit, f"by-{tool}")
    return found


def hub(p: Paths) -> list[Report]:
    python = str(tool_install.environment("qai-hub", "qai-hub==0.56.0") / "python")
    ini = p.stack.enter_context(hub_lab.hub(python, _there(p, "hub")))
    net = hub_lab.network(p.scratch / "net.onnx")
    package = bitship.export(net, "host", p.scratch / "net")
    settings = f'device = "Samsung Galaxy S24", model = "{net}", python = "{python}"'
    unit = f'[[device]]\nname = "s24"\ntarget = "qualcomm-galaxy-s24"\nhub = {{ {settings} }}\n'
    p.env["QAIHUB_CLIENT_INI"] = str(ini)
    return p.one("hub", package.path, unit, "s24")


PATHS: dict[str, Callable[[Paths], list[Report]]] = {
    "emulated": emulated,
    "serial": serial,
    "ssh": ssh,
    "adb": adb,
    "labgrid": labgrid,
    "probes": probes,
    "hub": hub,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True, help="the folder of real models")
    parser.add_argument("--out", type=Path, required=True, help="where the reports go")
    parser.add_argument("--only", nargs="+", choices=list(PATHS), default=list(PATHS))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in args.only:
        with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
            found = PATHS[name](Paths(args.data.resolve(), args.out.resolve(), Path(scratch), stack))
        for r in found:
            s = summarize(r.samples[0])
            said = (number(s.median), s.unit, s.kind.value) if name != "hub" else ("-", "-", "made by the stand-in")
            rows.append((name, r.target, r.device, bits(r), r.bits.elements, *said))
    columns = ["path", "target", "device", "bits", "elements", "median", "unit", "kind"]
    table(f"{KWS.name} through every path; a page each in {args.out}", columns, rows, left=4)


if __name__ == "__main__":
    main()
