"""The command line: what a user types and reads, errors as one line with exit code 2."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from op_cases import CASES

from bitship.cli.output import table
from bitship.graph import save


def run(*words: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "bitship", *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.bitship"
    save(CASES["conv_3x3"]()[0], path)
    return path


def test_inspect_shows_every_node_and_totals(model: Path) -> None:
    text = run("inspect", str(model))
    assert "conv2d" in text
    assert "no accumulator can overflow" in text
    found = json.loads(run("inspect", str(model), "--json"))
    assert found["nodes"][0]["op"] == "conv2d"
    assert found["macs"] == found["nodes"][0]["macs"] > 0


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz")
def test_inspect_draws(model: Path, tmp_path: Path) -> None:
    run("inspect", str(model), "--svg", str(tmp_path / "g.svg"), "--html", str(tmp_path / "g.html"))
    assert (tmp_path / "g.svg").read_text().count("<svg") == 1
    assert "conv2d" in (tmp_path / "g.html").read_text()


def test_plan_shows_and_draws_the_arena(model: Path, tmp_path: Path) -> None:
    text = run("plan", str(model), "-t", "mps2-an386", "--svg", str(tmp_path / "p.svg"))
    assert "arena" in text
    assert "proven" in text
    found = json.loads(run("plan", str(model), "-t", "mps2-an386", "--json"))
    assert found["arena_bytes"] == max(b["offset"] + b["size"] for b in found["buffers"])
    assert found["optimal"] is True
    drawn = ElementTree.parse(tmp_path / "p.svg").getroot()
    titles = [e.text for e in drawn.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == len(found["buffers"])
    assert str(titles[0]).startswith(f"{found['buffers'][0]['name']}: input")


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_export_bench_report_compare(model: Path, tmp_path: Path) -> None:
    package, a, b = tmp_path / "pkg", tmp_path / "a.json", tmp_path / "b.json"
    assert "firmware package for host" in run(
        "export", str(model), "-t", "host", "--converter", "firmware", "-o", str(package)
    )
    assert "exact" in run("bench", str(package), "--runs", "5", "-o", str(a), "--html", str(tmp_path / "r.html"))
    found = json.loads(run("bench", str(package), "--runs", "5", "-o", str(b), "--json"))
    assert found[0]["bits"]["differing"] == 0
    assert "latency" in run("report", str(a), str(b))
    rows = json.loads(run("compare", str(a), str(b), "--json", "--tolerance", "0.99"))
    assert [r["unit"] for r in rows[:2]] == ["elements", "ms"]
    assert (package / "plan.svg").read_text() in (tmp_path / "r.html").read_text()
    error = run("export", str(model), "-t", "host", "--converter", "firmware", "-o", str(package), code=2)
    assert error.count("\n") == 1
    assert "already exists" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["inspect", "nowhere.tflite"], "no such file"),
        (["inspect", "model.tflit"], "did you mean .tflite?"),
        (["inspect", "vit_mikro"], "did you mean vit_micro?"),
        (["inspect", "no_such_module:f"], "cannot be imported"),
        (["inspect", "json:nothing"], "no callable 'nothing'"),
        (["bench", "nowhere"], "not a package"),
        (["compare", "a.json", "b.json"], "cannot be read"),
    ],
)
def test_errors_are_one_line(words: list[str], message: str) -> None:
    error = run(*words, code=2)
    assert error.startswith("bitship: error: ")
    assert error.count("\n") == 1
    assert message in error


def test_a_module_without_calibration_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("def make():\n    return object()\n")
    monkeypatch.chdir(tmp_path)
    assert "calibration is missing" in run("inspect", "mine:make", code=2)


def test_targets_devices_doctor_answer_in_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {t["name"] for t in json.loads(run("targets", "--json"))}
    assert {"host", "mps2-an386", "mps3-an547", "microbit"} <= names
    assert json.loads(run("targets", "rp2040", "--json"))["clock_hz"] == 125_000_000
    text = run("targets", "rp2040")
    assert "no: nobody here has run a package on one" in text
    assert "uf2, pyocd, openocd" in text
    assert "nearest: rp2040" in run("targets", "rp240", code=2)
    assert any(d["device"] == "host" for d in json.loads(run("devices", "--json")))
    assert all({"source", "where", "problem"} <= set(f) for f in json.loads(run("devices", "--scan", "--json")))
    assert all({"name", "found", "disables", "install"} <= set(c) for c in json.loads(run("doctor", "--json")))
    desk = tmp_path / "devices.toml"
    desk.write_text(
        f'[[device]]\nname = "a"\ntarget = "rp2040"\nconsole = {{ driver = "serial", port = "{tmp_path}/gone" }}\n'
    )
    monkeypatch.setenv("BITSHIP_DEVICES", str(desk))
    last = json.loads(run("doctor", "--json"))[-1]
    assert last["name"] == f"a: console: {tmp_path}/gone is not there"
    assert last["found"] is None


def test_brackets_in_a_table_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    table("", ["to install"], [["pip install 'bitship[flash]'"]])
    assert "bitship[flash]" in capsys.readouterr().out


def test_help_names_every_command_and_version_is_said() -> None:
    text = run("--help")
    for command in (
        "quantize",
        "inspect",
        "export",
        "bench",
        "compare",
        "report",
        "targets",
        "devices",
        "doctor",
        "demo",
    ):
        assert command in text
    assert run("--version").startswith("bitship ")


def test_importing_bitship_loads_no_heavy_package() -> None:
    heavy = ("torch", "tvm", "executorch", "onnx", "matplotlib", "jinja2")
    code = f"import sys, bitship; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_tvm_package_runs_in_process_and_as_a_program_of_its_own(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("tvm")
    run("export", str(model), "-t", "host", "-o", str(tmp_path / "pkg"))
    for artifact in ("library", "runner"):
        (found,) = json.loads(run("bench", str(tmp_path / "pkg"), "--artifact", artifact, "--runs", "4", "--json"))
        assert found["artifact"] == artifact
        assert found["bits"]["differing"] == 0
        assert len(found["samples"][0]["values"]) == 4


FACTORY = """
import torch
def float_net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.GELU(), torch.nn.Linear(8, 3)), [torch.randn(20, 6)]
"""


def test_sensitivity_names_a_layer_and_draws(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "factory_of_nets.py").write_text(FACTORY)
    words = ["sensitivity", "factory_of_nets:float_net", "--plot", str(tmp_path / "s.svg")]
    done = subprocess.run(
        [sys.executable, "-m", "bitship", *words, "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [t["op"] for t in found["tensors"]] == ["linear", "gelu", "linear"]
    assert found["worst"] in {t["name"] for t in found["tensors"]}
    assert (tmp_path / "s.svg").is_file()
    assert "float torch module is needed" in run("sensitivity", "model.bitship", code=2)
