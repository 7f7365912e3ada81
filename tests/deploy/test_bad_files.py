"""Files that are not whole, not such models, newer, signed by others: refused with a typed error, and nothing changes."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.deploy import container
from tests.deploy import write_seeds
from tests.deploy.forged import data_start, resealed
from tests.support.generators.count import examples
from tests.support.processes.run import PYTHON

PRIVATE = bytes(range(32))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    fast = rt.compile(model, torch.randn(1, 3), "w8a8", calibration=[torch.randn(64, 3)])
    return rt.save(fast, tmp_path_factory.mktemp("whole") / "m.rta").read_bytes()


def public() -> bytes:
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    return ed25519.Ed25519PrivateKey.from_private_bytes(PRIVATE).public_key().public_bytes_raw()


def test_the_digest_is_where_this_test_writes_it(whole: bytes) -> None:
    assert resealed(whole) == whole


def test_every_flipped_bit_is_refused(whole: bytes) -> None:
    data = bytearray(whole)
    for place in range(len(data)):
        for bit in range(8):
            data[place] ^= 1 << bit
            with pytest.raises(rt.FormatError, match="load: got"):
                rt.load(bytes(data))
            data[place] ^= 1 << bit
    rt.load(bytes(data))


def test_every_flipped_bit_of_a_signature_is_refused(whole: bytes) -> None:
    key, pytest_key = public(), PRIVATE
    from cryptography.hazmat.primitives.asymmetric import ed25519

    signed = ed25519.Ed25519PrivateKey.from_private_bytes(pytest_key).sign(container.PREAMBLE + container.digest(whole))
    data = bytearray(container.with_signature(whole, signed))
    rt.load(bytes(data), verify_key=key)
    for place in range(8, 8 + 27 + 64 + 13 + 136 + 1):
        for bit in range(8):
            data[place] ^= 1 << bit
            with pytest.raises(rt.FormatError):
                rt.load(bytes(data))  # even without the key
            data[place] ^= 1 << bit


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated(whole: bytes, share: float) -> None:
    with pytest.raises(rt.FormatError, match="load: got"):
        rt.load(whole[: int(len(whole) * share)])
    with pytest.raises(rt.FormatError):
        rt.load(whole + b"\0")


def test_newer_version(whole: bytes) -> None:
    data, start = bytearray(whole), data_start(whole)
    data[start + 8 : start + 12] = struct.pack("<I", 3)
    with pytest.raises(rt.FormatError, match="version 3 of the format"):
        rt.load(resealed(data))


def test_other_byte_order(whole: bytes) -> None:
    data, start = bytearray(whole), data_start(whole)
    data[start + 12 : start + 16] = struct.pack(">I", 0x01020304)
    with pytest.raises(rt.FormatError, match="other byte order"):
        rt.load(resealed(data))


@pytest.mark.parametrize("samples", [2, 5, 1 << 20, 1 << 31, 1 << 40])
def test_outputs_of_more_samples_than_the_inputs_have(whole: bytes, samples: int) -> None:
    data, start = bytearray(whole), data_start(whole)
    at = data.find(struct.pack("<2I2q", 1, 2, -1, 2), start)  # of the output: its samples and dimensions
    struct.pack_into("<q", data, at + 8, samples)
    with pytest.raises(rt.FormatError, match=f"output has {samples} samples, the inputs 1"):
        rt.load(resealed(data))


def test_a_path_with_a_zero_character_is_no_other_path(tmp_path: Path) -> None:
    fast = rt.compile(nn.Linear(3, 2).eval(), torch.randn(1, 3))
    file = rt.save(fast, tmp_path / "a.rta")
    path = f"{file}\0b"
    loaded = rt.load(file)
    for call in (rt.load, lambda p: rt.load(p, in_place=True), loaded.swap, lambda p: rt.save(fast, p)):
        with pytest.raises(rt.FormatError):
            call(path)


def test_wrong_magic(whole: bytes) -> None:
    data, start = bytearray(whole), data_start(whole)
    data[start : start + 8] = b"SOMETHIN"
    with pytest.raises(rt.FormatError, match="no plan"):
        rt.load(resealed(data))
    with pytest.raises(rt.FormatError, match=r"no model|does not begin|where it should|header"):
        rt.load(b"PK\x03\x04" + os.urandom(4000))


def test_a_kernel_that_nobody_has(whole: bytes) -> None:
    data = whole.replace(b"\0linear\0", b"\0linaer\0", 1)
    assert data != whole
    with pytest.raises(rt.BackendUnavailable, match="linaer"):
        rt.load(resealed(data))


def test_not_a_regular_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.rta", "/dev/null"):
        with pytest.raises(rt.FormatError, match=r"regular|no such file"):
            rt.load(path)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(rt.FormatError, match="regular"):
        rt.load(fifo)


def test_signed(whole: bytes, tmp_path: Path) -> None:
    key = public()
    fast = rt.compile(nn.Linear(3, 2).eval(), torch.randn(1, 3))
    file = rt.save(fast, tmp_path / "signed.rta", sign=PRIVATE)
    x = np.ones((1, 3), np.float32)
    assert np.array_equal(rt.load(file, verify_key=key)(x), rt.load(file)(x))
    other = bytes(reversed(key))
    with pytest.raises(rt.FormatError, match="key"):
        rt.load(file, verify_key=other)
    with pytest.raises(rt.FormatError, match="not signed"):
        rt.load(whole, verify_key=key)
    with pytest.raises(rt.FormatError, match="ed25519 key"):
        rt.load(file, verify_key=b"short")
    forged = bytearray(file.read_bytes())
    forged[-1] ^= 1
    with pytest.raises(rt.FormatError, match="signature of another key, or of another file"):
        rt.load(resealed(forged), verify_key=key)


def test_a_plan_that_asks_for_much_memory(tmp_path: Path) -> None:
    fast = rt.compile(
        nn.Sequential(nn.Conv1d(1, 64, 1), nn.ReLU(), nn.Conv1d(64, 1, 1)).eval(), torch.randn(1, 1, 600_000)
    )
    file = rt.save(fast, tmp_path / "large.rta")
    with pytest.raises(rt.FormatError, match="RTA_LARGE"):
        rt.load(file)
    x = torch.randn(1, 1, 600_000)
    assert torch.equal(rt.load(file, large=True)(x), fast(x))


def test_what_is_in_the_way_of_saving(tmp_path: Path) -> None:
    class Draws(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.airy_ai(x) + 1

    with pytest.warns(UserWarning, match="airy_ai"):
        fast = rt.compile(Draws().eval(), torch.randn(3, 3))
    with pytest.raises(rt.UnsupportedProblem, match="airy_ai"):
        rt.save(fast, tmp_path / "m.rta")
    with pytest.raises(rt.UnsupportedProblem, match="Linear"):
        rt.save(nn.Linear(3, 3), tmp_path / "m.rta")  # type: ignore[arg-type]
    plain = rt.compile(nn.Linear(3, 2).eval(), torch.randn(1, 3))
    with pytest.raises(rt.FormatError, match="states"):
        rt.save(plain, tmp_path / "m.rta", states=True)
    with pytest.raises(rt.FormatError, match="sha256"):
        rt.save(plain, tmp_path / "m.rta", metadata={"sha256": "0"})
    with pytest.raises(rt.FormatError, match="a file in a folder that exists"):
        rt.save(plain, tmp_path / "no" / "folder" / "m.rta")
    assert not list(tmp_path.iterdir())


def test_arrays_that_do_not_fit(whole: bytes) -> None:
    model = rt.load(whole)
    x, y = np.ones((2, 3), np.float32), np.full((2, 2), 7, np.float32)
    for bad in (x.astype(np.float64), np.ones((2, 4), np.float32), np.ones(3, np.float32), x[:, ::-1], [[1.0]], None):
        with pytest.raises(rt.ShapeError):
            model(bad)
        with pytest.raises(rt.ShapeError):
            model.run(bad, out=y)
    for bad_out in (np.empty((3, 2), np.float32), y[:, ::-1], y.astype(np.int32), None, (y, y)):
        with pytest.raises(rt.ShapeError):
            model.run(x, out=bad_out)
    frozen = y.copy()
    frozen.flags.writeable = False
    with pytest.raises(rt.ShapeError, match="cannot be written"):
        model.run(x, out=frozen)
    shared = np.zeros(6, np.float32)
    with pytest.raises(rt.ShapeError, match="overlaps"):
        model.run(shared.reshape(2, 3), out=shared[:4].reshape(2, 2))
    with pytest.raises(rt.ShapeError):
        model(x, x)
    assert (y == 7).all()


@pytest.mark.parametrize("kind", ["operators", "models", "streams", "generated"])
def test_forged_files_are_refused_or_run(kind: str, tmp_path: Path) -> None:
    """Changed files of every operator, scheme and kind of stream, with the digest of what is in them. In a process of its own: a
    crash fails this test, and the file stays."""
    seeds = {
        "operators": lambda: write_seeds.of_operators(1),
        "models": write_seeds.of_models,
        "streams": write_seeds.of_streams,
        "generated": lambda: write_seeds.of_generated(examples(30)),
    }
    folder, kept = tmp_path / "seeds", tmp_path / "forged.rta"
    folder.mkdir()
    for number, (_, content) in enumerate(seeds[kind]()):
        if len(content) <= write_seeds.LARGEST:
            (folder / f"{number:04}.rta").write_bytes(content)
    child = subprocess.run(
        [*PYTHON, "-m", "tests.deploy.forged", folder, str(examples(1500)), "1", kept],
        capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert child.returncode == 0, f"{kept} ended the process with {child.returncode}:\n{child.stderr[-3000:]}"
    refused, ran = map(int, re.findall(r"\d+", child.stdout))
    assert refused > 0 and ran > 0


class TestSwap:
    def files(self, tmp_path: Path) -> list[Path]:
        made = []
        for i in range(2):
            torch.manual_seed(i)
            model = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3)).eval()
            made.append(rt.save(rt.compile(model, torch.randn(1, 5)), tmp_path / f"{i}.rta"))
        return made

    def test_there_and_back(self, tmp_path: Path) -> None:
        first, second = self.files(tmp_path)
        model, x = rt.load(first), np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
        a, b = rt.load(first)(x), rt.load(second)(x)
        bound_out = np.empty((4, 3), np.float32)
        step = model.bind(x, out=bound_out)
        assert np.array_equal(model(x), a)
        with pytest.raises(rt.FormatError, match="before a swap"):
            model.rollback()
        model.swap(second)
        assert model._native.pending
        step()
        assert np.array_equal(bound_out, b)
        assert not model._native.pending
        model.rollback()
        assert np.array_equal(model(x), a)
        model.rollback()  # the other way again
        assert np.array_equal(model(x), b)
        model.swap(first)
        model.rollback()  # before any call: the swap has not happened
        assert np.array_equal(model(x), b)

    def test_a_stream_keeps_its_past(self, tmp_path: Path) -> None:
        files = []
        for i in range(2):
            torch.manual_seed(i)
            files.append(
                rt.save(rt.stream(nn.GRU(3, 8, batch_first=True).eval(), torch.randn(2, 3)), tmp_path / f"{i}.rta")
            )
        steps = [np.random.default_rng(i).standard_normal((2, 3)).astype(np.float32) for i in range(6)]
        model, other = rt.load(files[0]), rt.load(files[1])
        for x in steps[:3]:
            model(x)
        other.load_state(model.save_state())
        model.swap(files[1])
        for x in steps[3:]:
            assert np.array_equal(model(x), other(x))

    def test_what_does_not_fit(self, tmp_path: Path, whole: bytes) -> None:
        first, second = self.files(tmp_path)
        model, x = rt.load(first), np.ones((2, 5), np.float32)
        want = model(x)
        (tmp_path / "other.rta").write_bytes(whole)
        (tmp_path / "broken.rta").write_bytes(second.read_bytes()[:-1])
        wider = nn.Sequential(nn.Linear(5, 17), nn.Tanh(), nn.Linear(17, 3)).eval()
        rt.save(rt.compile(wider, torch.randn(1, 5)), tmp_path / "wider.rta")
        for name in ("other.rta", "broken.rta", "missing.rta", "wider.rta"):
            with pytest.raises(rt.FormatError, match="swap: got"):
                model.swap(tmp_path / name)
            assert np.array_equal(model(x), want)

    def test_while_it_runs(self, tmp_path: Path) -> None:
        first, second = self.files(tmp_path)
        x = np.random.default_rng(0).standard_normal((1, 5)).astype(np.float32)
        wanted = {rt.load(file)(x).tobytes() for file in (first, second)}
        assert len(wanted) == 2
        model, stop, seen = rt.load(first), threading.Event(), set()

        def swaps() -> None:
            for i in range(300):
                model.swap((second, first)[i % 2])
            stop.set()

        thread = threading.Thread(target=swaps)
        thread.start()
        while not stop.is_set():
            seen.add(model(x).tobytes())
        thread.join()
        assert seen <= wanted
