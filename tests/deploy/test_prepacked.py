"""Packed weights in a file: the same bits, read in place, and every forgery of the section refused or harmless."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.deploy import prepacked
from rtaccel.deploy.container import sealed
from rtaccel.deploy.load import LoadedModel, load
from rtaccel.deploy.save import artifact_bytes
from rtaccel.runtime.compiled import CompiledModel

SCHEMES = {
    "float32": rt.Float32(),
    "w8a8": rt.W8A8(),
    "dynamic": rt.W8A8("dynamic"),
    "w8a16": rt.W8A16(),
    "w4a16": rt.W4A16(),
    "w4a8": rt.W4A8(),
    "bfloat16": rt.BFloat16(),
}


def compiled(scheme: str, seed: int = 0) -> CompiledModel:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(37, 70), nn.ReLU(), nn.Linear(70, 41), nn.Tanh(), nn.Linear(41, 5)).eval()
    return rt.compile(net, torch.randn(1, 37), SCHEMES[scheme], calibration=[torch.randn(64, 37)])


def ready(model: LoadedModel) -> int:
    return int(model._native.prepacked[0])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_same_bits(scheme: str, tmp_path: Path) -> None:
    fast = compiled(scheme)
    plain, file = rt.save(fast, tmp_path / "plain.rta"), rt.save(fast, tmp_path / "ready.rta", prepacked=True)
    assert prepacked.without_section(file.read_bytes()) == plain.read_bytes()
    assert ready(load(plain)) == 0
    for model in (load(file), load(file, in_place=True), load(file.read_bytes()), load(file, unchecked=True)):
        assert ready(model) == model._native.packed_bytes > 0
        assert "ready in the file" in model.explain()
        for batch in (1, 2, 5, 33):
            x = torch.randn(batch, 37)
            assert model(x.numpy()).tobytes() == fast(x).numpy().tobytes()


def test_beside_what_cannot_be_kept(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.head = nn.GRU(5, 12, batch_first=True), nn.Linear(12, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.gru(x)[0][:, -1])

    torch.manual_seed(0)
    live = rt.stream(Net().eval(), torch.randn(2, 5))
    for _ in range(3):
        live.step(torch.randn(2, 5))
    loaded = load(rt.save(live, tmp_path / "gru.rta", states=True, prepacked=True))
    assert 0 < ready(loaded) < loaded._native.packed_bytes
    for _ in range(4):
        x = torch.randn(2, 5)
        assert loaded.step(x.numpy()).tobytes() == live.step(x).numpy().tobytes()
    with pytest.raises(rt.UnsupportedProblem, match="without dense linear layers"):
        rt.save(rt.stream(nn.GRU(5, 8, batch_first=True).eval(), torch.randn(1, 5)), tmp_path / "x.rta", prepacked=True)
    assert not (tmp_path / "x.rta").exists()


def test_an_image_for_each_set(tmp_path: Path) -> None:
    fast = compiled("w8a8")
    file = rt.save(fast, tmp_path / "m.rta")
    assert prepacked.prepack(file) == file
    once = file.read_bytes()
    prepacked.prepack(file)
    assert file.read_bytes() == once  # the same image takes its own place
    image = prepacked.section(once)
    foreign = bytearray(image)  # of another processor's kernels
    stages = struct.unpack_from("<I", image, 8)[0]
    for i in range(stages):
        foreign[64 * (i + 1) : 64 * (i + 1) + 40] = b"cpu_other".ljust(40, b"\0")
    both = prepacked._with_section(once, bytes(foreign) + image)
    assert prepacked._images(prepacked.section(both)) == [bytes(foreign), image]
    x = torch.randn(3, 37)
    for whole, count in ((both, True), (prepacked._with_section(once, bytes(foreign)), False)):
        model = load(whole)
        assert bool(ready(model)) == count
        assert ("other kernels" in model.explain()) != count
        assert model(x.numpy()).tobytes() == fast(x).numpy().tobytes()
    file.write_bytes(prepacked._with_section(once, bytes(foreign)))
    prepacked.prepack(file)
    assert prepacked._images(prepacked.section(file.read_bytes())) == [bytes(foreign), image]


def test_of_another_version(tmp_path: Path) -> None:
    fast = compiled("w4a8")
    whole = rt.save(fast, tmp_path / "m.rta", prepacked=True).read_bytes()
    image = bytearray(prepacked.section(whole))
    image[24] ^= 1  # of the sources
    model = load(prepacked._with_section(whole, bytes(image)))
    assert ready(model) == 0
    assert "another version" in model.explain()
    x = torch.randn(2, 37)
    assert model(x.numpy()).tobytes() == fast(x).numpy().tobytes()


def test_signed(tmp_path: Path) -> None:
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    key = ed25519.Ed25519PrivateKey.generate()
    file = rt.save(compiled("w8a8"), tmp_path / "m.rta", sign=key)
    with pytest.raises(rt.UnsupportedProblem, match="which is signed"):
        prepacked.prepack(file)
    prepacked.prepack(file, sign=key)
    assert ready(load(file, verify_key=key.public_key()))
    file = rt.save(compiled("w8a8"), tmp_path / "n.rta", sign=key, prepacked=True)
    assert ready(load(file, verify_key=key.public_key()))
    with pytest.raises(rt.UnsupportedProblem, match="in_place with a key"):
        load(file, verify_key=key.public_key(), in_place=True)
    with pytest.raises(rt.UnsupportedProblem, match="in_place with bytes"):
        load(file.read_bytes(), in_place=True)


def test_swap(tmp_path: Path) -> None:
    fast = compiled("w8a16")
    other = compiled("w8a16", seed=1)
    x = torch.randn(4, 37)
    wants = [fast(x).numpy().tobytes(), other(x).numpy().tobytes()]
    files = [rt.save(m, tmp_path / f"{i}.rta", prepacked=True) for i, m in enumerate((fast, other))]
    model = load(files[0], in_place=True)
    for _ in range(3):
        model.swap(files[1])
        assert model(x.numpy()).tobytes() == wants[1]
        model.swap(prepacked.without_section(files[0].read_bytes()))
        assert model(x.numpy()).tobytes() == wants[0]
        assert ready(model) == 0
        model.rollback()
        assert model(x.numpy()).tobytes() == wants[1]
        model.swap(files[0].read_bytes())
        assert model(x.numpy()).tobytes() == wants[0]
        assert ready(model)


def test_the_digest_covers_it(tmp_path: Path) -> None:
    whole = rt.save(compiled("w8a8"), tmp_path / "m.rta", prepacked=True).read_bytes()
    start = len(whole) - len(prepacked.section(whole))
    rng = np.random.default_rng(0)
    for at in [start, len(whole) - 1, *rng.integers(start, len(whole), 200)]:
        changed = bytearray(whole)
        changed[at] ^= 1 << int(rng.integers(8))
        with pytest.raises(rt.FormatError, match="not those that were written"):
            load(bytes(changed))
    for cut in (1, 63, 64, len(whole) - start):
        with pytest.raises(rt.FormatError):
            load(whole[:-cut])
        (tmp_path / "cut.rta").write_bytes(whole[:-cut])
        with pytest.raises(rt.FormatError):
            load(tmp_path / "cut.rta", in_place=True, unchecked=True)


@pytest.mark.parametrize("scheme", ["float32", "w8a8", "w4a8"])
def test_forged(scheme: str) -> None:
    """Every number of the heads and records, to what is near it and to what is far: refused, or the results are as before."""
    fast = compiled(scheme)
    whole = prepacked.with_prepacked(artifact_bytes(fast))
    image = prepacked.section(whole)
    start = len(whole) - len(image)
    stages = struct.unpack_from("<I", image, 8)[0]
    x = torch.randn(2, 37)
    want = fast(x).numpy().tobytes()
    refused = 0
    for at in range(0, 64 * (stages + 1), 4):
        (old,) = struct.unpack_from("<I", image, at)
        for new in (0, 1, old ^ 1, old ^ 64, (old + 64) % 2**32, (old - 64) % 2**32, 2**31, 2**32 - 1):
            changed = bytearray(whole)
            struct.pack_into("<I", changed, start + at, new)
            try:
                model = load(sealed(bytes(changed)))
            except rt.FormatError:
                refused += 1
                continue
            assert model(x.numpy()).tobytes() == want
    assert refused > 20 * stages


def test_bad_places(tmp_path: Path) -> None:
    plain = artifact_bytes(compiled("w8a8"))
    whole = prepacked.with_prepacked(plain)
    for source in (plain, whole):
        begin = 8 + struct.unpack_from("<Q", source)[0]
        version, at = struct.unpack_from("<I", source, begin + 8)[0], struct.unpack_from("<Q", source, begin + 120)[0]
        for offset, form, value in (
            (8, "<I", 3), (8, "<I", 3 - version), (120, "<Q", 1), (120, "<Q", 64), (120, "<Q", at + 64), (120, "<Q", 2**63),
            (120, "<Q", 2**64 - 64), (120, "<Q", len(source) - begin), (120, "<Q", len(source) // 64 * 64 + 64),
        ):  # fmt: skip
            changed = bytearray(source)
            struct.pack_into(form, changed, begin + offset, value)
            with pytest.raises(rt.FormatError):
                load(sealed(bytes(changed)))
    with pytest.raises(rt.FormatError):
        load(tmp_path / "none.rta", in_place=True)
    with pytest.raises(rt.FormatError):
        load(tmp_path, in_place=True)
