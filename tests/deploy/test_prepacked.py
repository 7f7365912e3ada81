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
from rtaccel.deploy.load import load
from rtaccel.deploy.loaded_model import LoadedModel
from rtaccel.deploy.save import artifact_bytes
from rtaccel.plan import sparse_recurrent
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


class Recurrent(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layers = getattr(nn, kind)(5, 37, 2, batch_first=True)
        self.head = nn.Linear(37, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(x)[0][:, -1])


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
@pytest.mark.parametrize("scheme", ["float32", "w8a8", "w4a8", "bfloat16"])
def test_recurrent_layers(kind: str, scheme: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    live = rt.stream(Recurrent(kind).eval(), torch.randn(2, 5), SCHEMES[scheme], calibration=[torch.randn(4, 9, 5)])
    for _ in range(3):
        live.step(torch.randn(2, 5))
    file = rt.save(live, tmp_path / "m.rta", states=True, prepacked=True)
    models = [load(file), load(file, in_place=True), load(prepacked.without_section(file.read_bytes()))]
    kept = [ready(model) for model in models]
    assert kept[0] == kept[1] > 5 * 37 * 4 / 2
    assert kept[2] == 0
    for _ in range(4):
        x = torch.randn(2, 5)
        want = live.step(x).numpy().tobytes()
        for model in models:
            assert model.step(x.numpy()).tobytes() == want


CONVOLUTIONS = {
    "plain": (nn.Conv2d(3, 20, 3), (3, 9, 11)),
    "grouped": (nn.Conv1d(12, 24, 3, groups=3), (12, 19)),
    "depthwise": (nn.Conv2d(21, 21, 3, padding=1, groups=21), (21, 8, 8)),
    "winograd": (nn.Conv2d(16, 19, 3, padding=1), (16, 24, 24)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
def test_convolutions(name: str, scheme: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer, shape = CONVOLUTIONS[name]
    net = nn.Sequential(layer, nn.ReLU(), nn.Flatten()).eval()
    fast = rt.compile(net, torch.randn(1, *shape), SCHEMES[scheme], calibration=[torch.randn(16, *shape)])
    file = rt.save(fast, tmp_path / "m.rta", prepacked=True)
    models = [load(file), load(file, in_place=True), load(prepacked.without_section(file.read_bytes()))]
    assert ready(models[0]) == ready(models[1]) >= layer.weight.numel() > ready(models[2]) == 0
    for batch in (1, 3):
        x = torch.randn(batch, *shape)
        want = fast(x).numpy().tobytes()
        for model in models:
            assert model(x.numpy()).tobytes() == want


def test_beside_what_cannot_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of sparse recurrent weights lead to places, in five forms: no file has them ready."""
    monkeypatch.setattr(sparse_recurrent, "time", lambda stage, rows: 1.0 if "layout" in stage.attrs else 2.0)
    torch.manual_seed(0)
    net = Recurrent("GRU").eval()
    with torch.no_grad():
        for name, parameter in net.layers.named_parameters():
            if name.startswith("weight"):
                parameter *= torch.rand_like(parameter) < 0.1
    fast = rt.compile(net, torch.randn(1, 6, 5))
    loaded = load(rt.save(fast, tmp_path / "m.rta", prepacked=True))
    assert "_sparse_" in loaded.explain()
    assert 0 < ready(loaded) < loaded._native.packed_bytes
    x = torch.randn(3, 6, 5)
    assert loaded(x.numpy()).tobytes() == fast(x).numpy().tobytes()


def test_weights_that_stages_share_are_there_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer, last = nn.Linear(40, 40), nn.Linear(40, 40)
    net = nn.Sequential(*[module for _ in range(9) for module in (layer, nn.Tanh())], last).eval()
    fast = rt.compile(net, torch.randn(1, 40))
    whole = rt.save(fast, tmp_path / "m.rta", prepacked=True).read_bytes()
    packed = fast._executor.native_plans[0].packed_bytes
    assert packed <= len(prepacked.section(whole)) < packed + 64 * 40
    models = [load(whole), load(tmp_path / "m.rta", in_place=True), load(prepacked.without_section(whole))]
    assert [ready(model) for model in models] == [packed, packed, 0]
    assert {model._native.packed_bytes for model in models} == {packed}
    x = torch.randn(3, 40)
    assert {model(x.numpy()).tobytes() for model in models} == {fast(x).numpy().tobytes()}
    assert prepacked.with_prepacked(whole) == whole


def test_nothing_to_keep(tmp_path: Path) -> None:
    fast = rt.compile(nn.Sequential(nn.Tanh(), nn.Softmax(-1)).eval(), torch.randn(1, 8))
    with pytest.raises(rt.UnsupportedProblem, match="without weights to keep"):
        rt.save(fast, tmp_path / "x.rta", prepacked=True)
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


def several() -> CompiledModel:
    """A convolution, a recurrent layer and a linear one."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.gru, self.head = nn.Conv1d(3, 8, 3), nn.GRU(8, 9, batch_first=True), nn.Linear(9, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.gru(self.conv(x).transpose(1, 2))[0][:, -1])

    torch.manual_seed(0)
    return rt.compile(Net().eval(), torch.randn(1, 3, 12), "w8a8", calibration=[torch.randn(16, 3, 12)])


def test_forged_sizes_of_all_kinds() -> None:
    """Bytes moved from one stage to another, with every place still right: a stage has too few or too many."""
    fast = several()
    whole = prepacked.with_prepacked(artifact_bytes(fast))
    image = prepacked.section(whole)
    stages = struct.unpack_from("<I", image, 8)[0]
    sizes = [struct.unpack_from("<Q", image, 64 * (i + 1) + 48)[0] for i in range(stages)]
    assert sum(1 for size in sizes if size) >= 3
    for give in range(stages):
        for take in range(stages):
            if give == take or not sizes[give]:
                continue
            changed, forged = list(sizes), bytearray(image)
            changed[give] -= 64
            changed[take] += 64
            at = 64 * (stages + 1)
            for i, size in enumerate(changed):
                struct.pack_into("<QQ", forged, 64 * (i + 1) + 40, at, size)
                at += size
            with pytest.raises(rt.FormatError, match="packed weights"):
                load(prepacked._with_section(whole, bytes(forged)))


def test_forged_numbers_of_all_kinds() -> None:
    """Any numbers: the results are others, as with forged weights, and nothing else happens."""
    fast = several()
    whole = prepacked.with_prepacked(artifact_bytes(fast))
    image = prepacked.section(whole)
    start = len(whole) - len(image) + 64 * (struct.unpack_from("<I", image, 8)[0] + 1)
    rng = np.random.default_rng(0)
    x = torch.randn(2, 3, 12).numpy()
    for bits in (0x00, 0xFF, 0x7F, 0x80, None):
        changed = bytearray(whole)
        changed[start:] = rng.bytes(len(whole) - start) if bits is None else bytes([bits]) * (len(whole) - start)
        model = load(sealed(bytes(changed)))
        assert ready(model)
        assert model(x).shape == (2, 2)


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
