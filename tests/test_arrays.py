"""Arrays on disk: the same in any thread, and one thread reads at a time."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitship.arrays import load_npz


def test_arrays_come_back_in_order(tmp_path: Path) -> None:
    made: dict[str, Any] = {"b": np.arange(6, dtype=np.int8).reshape(2, 3), "a": np.ones((0, 4), np.float32)}
    np.savez(tmp_path / "x.npz", **made)
    found = load_npz(tmp_path / "x.npz")
    assert list(found) == ["b", "a"]
    for name, value in made.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype


def test_a_single_array_is_no_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(3))
    with pytest.raises(ValueError, match=r"not an \.npz"):
        load_npz(tmp_path / "x.npy")


def test_threads_read_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "x.npz", a=np.arange(3))
    load, now, most, lock = np.load, 0, 0, threading.Lock()

    def watched(*words: Any, **more: Any) -> Any:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.005)
        found = load(*words, **more)
        with lock:
            now -= 1
        return found

    monkeypatch.setattr(np, "load", watched)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(load_npz, [tmp_path / "x.npz"] * 16))
    assert [f["a"].tolist() for f in found] == [[0, 1, 2]] * 16
    assert most == 1
