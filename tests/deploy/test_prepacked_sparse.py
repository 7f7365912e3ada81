"""Packed sparse weights in a file: the same bits, read in place; what leads outside in a forged one is refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.core.registry import impls
from rtaccel.deploy import prepacked
from rtaccel.deploy.container import sealed
from rtaccel.deploy.load import load
from rtaccel.deploy.loaded_model import LoadedModel
from rtaccel.kernels.sparse_linear.contract import LAYOUTS, make_stage
from tests.deploy.write_seeds import of_stage

SCHEMES = ("float32", "static", "dynamic")
SIZES = (
    (1, 1, 0.5),
    (5, 3, 0.4),
    (41, 190, 0.2),
    (129, 65, 0.3),
    (64, 128, 0.05),
    (70, 300, 0.02),
    (40, 64, 0.0),
    (200, 257, 1.0),
)
LANES = {"portable": 4, "avx2": 8, "avxvnni": 8, "neon": 4, "neondot": 4}  # AVX-512: 16
HEAD = struct.Struct("<qqq")
BAD = "packed weights"


def file_of(n: int, k: int, scheme: str, layout: str, density: float, seed: int = 0) -> bytes:
    stage = make_stage(k, n, scheme, layout, density, seed=seed)
    kernel = next(i.name for i in impls("cpu", "sparse_linear") if layout_of(i.name) == layout)
    return of_stage(stage, kernel)


def layout_of(kernel: str) -> str:
    return {"window": "window", "blocks": "blocks", "semi": "2:4"}[kernel.split("_")[1]]


def ready(model: LoadedModel) -> int:
    return int(model._native.prepacked[0])


def inputs_of(model: LoadedModel, rows: int, seed: int = 0) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    found = []
    for _, dtype, shape in model.inputs:
        sizes = [rows if s < 0 else s for s in shape]
        if dtype == "int8":
            found.append(rng.integers(-128, 128, sizes).astype(np.int8))
        else:
            found.append(rng.standard_normal(sizes).astype(dtype) ** 2)  # scales of rows are above 0
    return found


def answer(model: LoadedModel, rows: int, seed: int = 0) -> list[bytes]:
    result = model(*inputs_of(model, rows, seed))
    return [r.tobytes() for r in (result if isinstance(result, tuple) else (result,))]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_bits(layout: str, scheme: str, tmp_path: Path) -> None:
    for n, k, density in SIZES:
        plain = file_of(n, k, scheme, layout, density)
        whole = prepacked.with_prepacked(plain)
        (tmp_path / "m.rta").write_bytes(whole)
        packs = load(plain)
        for model in (load(whole), load(tmp_path / "m.rta", in_place=True)):
            assert ready(model) == model._native.packed_bytes == packs._native.packed_bytes > ready(packs) == 0
            for rows in (1, 2, 7, 33):
                assert answer(model, rows, rows) == answer(packs, rows, rows), (n, k, rows)


class Payload:
    """The packed weights of a file with one stage, and where the parts of those that lead somewhere are."""

    def __init__(self, n: int, k: int, scheme: str, layout: str, density: float) -> None:
        self.whole = prepacked.with_prepacked(file_of(n, k, scheme, layout, density))
        image = prepacked.section(self.whole)
        self.start = len(self.whole) - len(image) + 128
        isa = image[64:104].rstrip(b"\0").decode().split("_")[-1]
        self.lanes = LANES.get(isa, 16)
        self.form, self.together, self.count = HEAD.unpack_from(self.whole, self.start)
        tiles = -(-n // (4 * self.lanes))
        self.units = tiles * 4 if self.form == 3 else tiles * 4 // self.together
        self.ends = self.start + 64
        self.starts = self.ends + whole_lines(8 * (self.units + 1))
        if self.form == 2 or (self.form == 1 and self.lanes == 16):
            self.starts += whole_lines(tiles * 4 * self.lanes)
        self.start_count = self.count * (2 // self.together if self.form == 1 else 1)
        self.stream = self.starts + whole_lines(2 * self.start_count)

    def changed(self, form: str, at: int, *values: int) -> bytes:
        made = bytearray(self.whole)
        struct.pack_into(form, made, at, *values)
        return sealed(bytes(made))


def whole_lines(count: int) -> int:
    return -(-count // 64) * 64


@pytest.mark.parametrize("scheme", ["float32", "static"])
@pytest.mark.parametrize("layout", ["window", "blocks"])
def test_forged_heads(layout: str, scheme: str) -> None:
    p = Payload(45, 150, scheme, layout, 0.2)
    assert p.count > 0 and struct.unpack_from("<q", p.whole, p.ends + 8 * p.units)[0] == p.count
    for field, old in enumerate((p.form, p.together, p.count)):
        for new in (0, 1, 2, 3, 4, 5, old + 1, old - 1, 2 * old, -old, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63)):
            if new != old:
                with pytest.raises(rt.FormatError, match=BAD):
                    load(p.changed("<q", p.start + 8 * field, new))
    for at in range(HEAD.size, 64):
        with pytest.raises(rt.FormatError, match="behind their head"):
            load(p.changed("<B", p.start + at, 1))


@pytest.mark.parametrize("scheme", ["float32", "static"])
@pytest.mark.parametrize("layout", ["window", "blocks"])
def test_forged_places(layout: str, scheme: str) -> None:
    """Every end and every start, one at a time: none leads a kernel outside of the row or of the weights."""
    n, k = 45, 150
    p = Payload(n, k, scheme, layout, 0.2)
    for unit in range(p.units + 1):
        at = p.ends + 8 * unit
        (old,) = struct.unpack_from("<q", p.whole, at)
        for new in (old + p.count + 1, -1, -(2**63), 2**63 - 1, p.count if unit == 0 else 0 if unit == p.units else -2):
            with pytest.raises(rt.FormatError, match="ends lead outside"):
                load(p.changed("<q", at, new))
    readable = k if scheme == "float32" else whole_lines(k)
    for i in range(p.start_count):
        for new in (65535, readable, readable + 1):
            with pytest.raises(rt.FormatError, match="lead outside"):
                load(p.changed("<H", p.starts + 2 * i, new))


def test_forged_indices() -> None:
    """Where the kernel reads entries one by one, an index behind a start is a column of the row."""
    p = Payload(45, 150, "float32", "window", 0.2)
    if p.lanes == 16:
        pytest.skip("AVX-512 picks entries in registers, where every index is one")
    pair = p.lanes * 2 * 2 * 5
    for i in range(p.count):
        for index in range(p.lanes * 4):
            with pytest.raises(rt.FormatError, match="indices lead outside"):
                load(p.changed("<B", p.stream + i * pair + pair * 4 // 5 + index, 255))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_forged_bytes(layout: str, scheme: str) -> None:
    """Any change of a byte is refused, or runs."""
    whole = prepacked.with_prepacked(file_of(45, 150, scheme, layout, 0.1))
    start = len(whole) - len(prepacked.section(whole)) + 128
    rng = np.random.default_rng(0)
    ran = refused = 0
    for at in rng.integers(start, len(whole), 400):
        changed = bytearray(whole)
        changed[at] ^= 1 << int(rng.integers(8))
        try:
            model = load(sealed(bytes(changed)))
        except rt.FormatError:
            refused += 1
            continue
        answer(model, 3)
        ran += 1
    assert ran > 0
    assert refused == 0 or layout != "2:4"  # two bits say which of four: there is no wrong one


def test_a_pruned_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pruned = rt.Pruned(rt.BlockSparse((16, 16), 0.95), "float32")
    net = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 8)).eval()
    fast = rt.compile(net, torch.randn(1, 512), {"0": pruned, "2": rt.Float32()})
    loaded = load(rt.save(fast, tmp_path / "m.rta", prepacked=True))
    if "sparse_linear" not in loaded.explain():
        pytest.skip("the dense form of the layer was faster when it was compiled")
    assert ready(loaded) == loaded._native.packed_bytes
    x = torch.randn(3, 512)
    assert loaded(x.numpy()).tobytes() == fast(x).numpy().tobytes()
