""".pt2 files: a saved PT2E program gives the graph it was quantized to, and nothing in a file is unpickled."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pt2e_quantizer import simulate

from bitship.errors import BitshipError, FormatError, QuantizationError, UnsupportedError
from bitship.graph import spec
from bitship.quantization import load_pt2
from bitship.quantization.pairs import PairWalk

torch = pytest.importorskip("torch")
pytest.importorskip("torchao")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    torch.manual_seed(0)
    nn = torch.nn
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 4)
    ).eval()
    converted = simulate(net, [torch.randn(8, 3, 8, 8)])
    path = tmp_path_factory.mktemp("pt2") / "net.pt2"
    torch.export.save(torch.export.export(converted, (torch.randn(1, 3, 8, 8),)), path)
    return path, PairWalk(converted, "net").run()


def rewrite(path: Path, out: Path, change: Callable[[str, bytes], bytes | None], extra: dict[str, bytes]) -> Path:
    """Copy an archive, changing or dropping members and adding others."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            data = change(info.filename, old.read(info))
            if data is not None:
                new.writestr(info.filename, data)
        for name, data in extra.items():
            new.writestr(name, data)
    return out


def keep(name: str, data: bytes) -> bytes:
    return data


def test_a_saved_program_gives_the_same_bits(saved: tuple[Path, Any]) -> None:
    path, graph = saved
    loaded = load_pt2(path)
    x = np.random.default_rng(0).integers(-128, 128, (1, 8, 8, 3)).astype(np.int8)
    np.testing.assert_array_equal(spec.run(loaded, x)[0], spec.run(graph, x)[0])
    assert loaded.inputs[0].quant == graph.inputs[0].quant


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_sample_inputs_are_never_unpickled(saved: tuple[Path, Any], tmp_path: Path) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "gone_off"))

    def change(name: str, data: bytes) -> bytes:
        return bomb if "sample_inputs" in name else data

    load_pt2(rewrite(saved[0], tmp_path / "bomb.pt2", change, {}))
    assert not (tmp_path / "gone_off").exists()


def edited(part: str, edit: Callable[[str], str]) -> Callable[[str, bytes], bytes]:
    return lambda name, data: edit(data.decode()).encode() if name.endswith(part) else data


OPAQUE = '{"config": {"a": {"use_pickle": false, "path_name": "opaque_obj_0"}}}'
BUILTIN = ("torch.ops.aten.conv2d.default", "builtins.eval")
SYMBOL = ('"as_int": 3}', '"as_expr": {"expr_str": "x"}}')


@pytest.mark.parametrize(
    ("change", "extra", "message"),
    [
        (edited("weights_config.json", lambda t: t.replace("false", "true")), {}, "pickled"),
        (edited("constants_config.json", lambda t: OPAQUE), {}, "no raw tensor"),
        (edited("models/model.json", lambda t: t.replace(*BUILTIN)), {}, "'builtins.eval'"),
        (edited("models/model.json", lambda t: t.replace(*SYMBOL)), {}, "dynamic"),
        (edited("models/model.json", lambda t: t.replace("builtins.tuple", "os.system")), {}, r"os\.system"),
        (keep, {"net/data/aotinductor/model/x.so": b""}, "aotinductor"),
    ],
)
def test_what_could_run_code_is_refused(
    saved: tuple[Path, Any], tmp_path: Path, change: Any, extra: dict[str, bytes], message: str
) -> None:
    with pytest.raises(UnsupportedError, match=message):
        load_pt2(rewrite(saved[0], tmp_path / "bad.pt2", change, extra))


def test_a_float_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "float.pt2"
    torch.export.save(torch.export.export(torch.nn.Conv2d(3, 4, 3), (torch.randn(1, 3, 8, 8),)), path)
    with pytest.raises(QuantizationError, match="stay in float"):
        load_pt2(path)


def test_what_is_no_archive_is_a_format_error(saved: tuple[Path, Any], tmp_path: Path) -> None:
    (tmp_path / "noise.pt2").write_bytes(b"PK\x03\x04 noise")
    for path in (tmp_path / "noise.pt2", tmp_path / "absent.pt2"):
        with pytest.raises(FormatError):
            load_pt2(path)
    without = rewrite(saved[0], tmp_path / "w.pt2", lambda n, d: None if n.endswith("model.json") else d, {})
    with pytest.raises(FormatError, match=r"models/model\.json"):
        load_pt2(without)


def test_damaged_files_end_in_bitship_errors(saved: tuple[Path, Any], tmp_path: Path) -> None:
    whole = saved[0].read_bytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        program = json.loads(archive.read("net/models/model.json"))
    text = json.dumps(program)
    for i in range(40):
        r = np.random.default_rng(i)
        data = bytearray(whole)
        if i % 2:
            for _ in range(5):
                data[int(r.integers(len(data)))] = int(r.integers(256))
            (tmp_path / "m.pt2").write_bytes(data)
        else:
            at = int(r.integers(len(text)))
            damaged = text[:at] + str(r.integers(10)) + text[at + 1 :]
            rewrite(saved[0], tmp_path / "m.pt2", edited("model.json", lambda _, d=damaged: d), {})  # type: ignore[misc]
        try:
            load_pt2(tmp_path / "m.pt2")
        except BitshipError:
            continue
