"""Files whose inputs and results are whole numbers of one to four bytes and truth values: torch's bits from Python and from C."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from tests.deploy import write_seeds
from tests.deploy.forged import data_start, resealed
from tests.support.generators.count import examples


class Sums(nn.Module):
    def forward(self, INPUT0: Tensor, INPUT1: Tensor) -> Any:
        return INPUT0 + INPUT1, INPUT0 - INPUT1


class Mixed(nn.Module):
    """Results that others read, too; of truth values and numbers; from bytes and through a layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 3)

    def forward(self, a: Tensor, b: Tensor, flag: Tensor, image: Tensor) -> Any:
        total = a + b
        scores = self.layer(image.float() / 16)
        return (
            total * a, total, (a > b) & flag, total.float(), image.float() > 100.0, (image.float() * 2).to(torch.int32),
            scores.argmax(-1).to(torch.int32), scores > 0,
        )  # fmt: skip


def whole(*shape: int) -> Tensor:
    """int32, with some at the ends, whose sums and products wrap."""
    near = torch.randint(-99, 99, shape, dtype=torch.int32)
    return torch.where(torch.rand(shape) < 0.3, torch.randint(-(2**31), 2**31, shape).to(torch.int32), near)


def call(rows: int, width: int) -> tuple[Tensor, ...]:
    image = torch.randint(0, 256, (rows, width), dtype=torch.uint8)
    return whole(rows, width), whole(rows, width), torch.rand(rows, width) > 0.5, image


def flat(result: Any) -> list[np.ndarray]:
    return [np.asarray(part) for part in result]


def test_the_bits_of_torch(tmp_path: Path, in_c: Callable[..., bytes]) -> None:
    for seed in range(examples(6)):
        torch.manual_seed(seed)
        width = int(torch.randint(1, 140, ()))
        model = Mixed(width).eval()
        fast = rt.compile(model, call(2, width))
        loaded = rt.load(rt.save(fast, tmp_path / "model.rta"))
        assert [dtype for _, dtype, _ in loaded.inputs] == ["int32", "int32", "bool", "uint8"]
        kinds = ["int32", "int32", "bool", "float32", "bool", "int32", "int32", "bool"]
        assert [dtype for _, dtype, _ in loaded.outputs] == kinds
        for rows in (1, 3, 37):
            given = call(rows, width)
            want = flat(model(*given))
            arrays = [x.numpy() for x in given]
            outs = tuple(np.full(y.shape, 113).astype(y.dtype) for y in want)
            loaded.run(*arrays, out=outs)
            for got in (flat(loaded(*arrays)), flat(loaded(*given)), flat(outs), flat(fast(*given))):
                assert [y.dtype for y in got] == [y.dtype for y in want]
                for y, z in zip(got, want, strict=True):
                    np.testing.assert_array_equal(y, z)
            found = in_c(tmp_path / "model.rta", [arrays], rows)
            assert found == b"".join(y.tobytes() for y in want)


def test_names_are_those_of_the_model(tmp_path: Path) -> None:
    fast = rt.compile(Sums().eval(), (whole(1, 16), whole(1, 16)))
    named = rt.load(rt.save(fast, tmp_path / "simple.rta", output_names=["OUTPUT0", "OUTPUT1"]))
    assert named.inputs == (("INPUT0", "int32", (-1, 16)), ("INPUT1", "int32", (-1, 16)))
    assert named.outputs == (("OUTPUT0", "int32", (-1, 16)), ("OUTPUT1", "int32", (-1, 16)))
    assert [name for name, _, _ in rt.load(rt.save(fast, tmp_path / "plain.rta")).outputs] == ["output_0", "output_1"]
    for bad in (["y"], ["y", "y"], ["y", ""], ["y", 1], "ab", ["y", "z", "w"], ["y", "a\0b"], 5):
        with pytest.raises(rt.FormatError, match=r"output_names=.*2 texts, none twice"):
            rt.save(fast, tmp_path / "bad.rta", output_names=bad)  # type: ignore[arg-type]
    assert not (tmp_path / "bad.rta").exists()


def test_results_are_written_where_they_are_computed(tmp_path: Path) -> None:
    """No pass of its own where no other stage reads them."""
    fast = rt.compile(Sums().eval(), (whole(1, 16), whole(1, 16)))
    assert len(rt.load(rt.save(fast, tmp_path / "simple.rta")).stages) == len(fast._program.stages)


def test_arrays_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    fast = rt.compile(Sums().eval(), (whole(1, 16), whole(1, 16)))
    model = rt.load(rt.save(fast, tmp_path / "simple.rta"))
    x = whole(2, 16).numpy()
    outs = (np.full((2, 16), 7, np.int32), np.full((2, 16), 7, np.int32))
    for bad in (x.astype(np.int64), x.astype(np.float32), x.astype(np.uint32), x[:, :15]):
        with pytest.raises(rt.ShapeError):
            model.run(bad, x, out=outs)
    for wrong in (np.int64, np.float32, np.uint8):
        with pytest.raises(rt.ShapeError):
            model.run(x, x, out=(outs[0], outs[1].astype(wrong)))
    assert all((y == 7).all() for y in outs)


class Images(nn.Module):
    """Convolutions store channels last."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.conv, self.form = nn.Conv1d(3, 4, 3, padding=1), form

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.form == "channels first":
            return y > 0
        y = y.transpose(1, 2)
        return {"channels last": y > 0, "classes": y.argmax(-1).to(torch.int32), "sums": (y > 0).sum(1)}[self.form]


@pytest.mark.parametrize("form", ["channels first", "channels last", "classes", "sums"])
def test_results_that_lie_otherwise(form: str, tmp_path: Path) -> None:
    """They come as torch has them."""
    model, x = Images(form).eval(), torch.randn(3, 3, 7)
    fast = rt.compile(model, x[:1])
    loaded = rt.load(rt.save(fast, tmp_path / "model.rta"))
    want = model(x).numpy()
    assert (loaded(x.numpy()).dtype, loaded(x.numpy()).shape) == (want.dtype, want.shape)
    np.testing.assert_array_equal(loaded(x.numpy()), want)


@pytest.mark.parametrize("shape", [(7,), (2, 7), (2, 3, 7), (2, 3, 4, 7)])
@pytest.mark.parametrize("most", [False, True])
def test_results_of_every_rank(shape: tuple[int, ...], most: bool, tmp_path: Path) -> None:
    class Rank(nn.Module):
        def forward(self, x: Tensor, n: Tensor) -> Any:
            return x.argmax(-1).to(torch.int32), x > 0.5, n * 3, n.sum(-1) > 4

    call = (torch.rand(shape), whole(*shape))
    fast = rt.compile(Rank().eval(), call, max_batch=shape[0] if most else None)
    loaded = rt.load(rt.save(fast, tmp_path / "model.rta"))
    for y, z in zip(flat(loaded(*[x.numpy() for x in call])), flat(Rank()(*call)), strict=True):
        assert y.dtype == z.dtype
        np.testing.assert_array_equal(y, z)


def test_it_explains_itself() -> None:
    fast = rt.compile(Mixed(5).eval(), call(2, 5))
    assert "integer" in fast.explain()  # with times, for which it makes inputs of every dtype


def test_it_runs_in_a_loop(tmp_path: Path) -> None:
    model = rt.load(rt.save(rt.compile(Mixed(5).eval(), call(1, 5)), tmp_path / "model.rta"))
    ports = [((5,), dtype) for _, dtype, _ in model.inputs]
    _, found, _ = model.loop_step("loop", ports)
    assert [dtype for _, dtype in found] == [dtype for _, dtype, _ in model.outputs]


def test_a_forged_list_of_dtypes_says_nothing_else(tmp_path: Path) -> None:
    file = rt.save(rt.compile(Sums().eval(), (whole(1, 3), whole(1, 3))), tmp_path / "simple.rta").read_bytes()
    right = b'\\"dtype\\":\\"int32\\"'
    assert file.count(right) == 4
    for wrong in (
        b'\\"dtype\\":\\"bool\\" ',
        b'\\"dtype\\":99999999',
        b'\\"dtypo\\":\\"int32\\"',
        b"[[[[[[[[[[[[[[[[[[[",
    ):
        model = rt.load(resealed(file.replace(right, wrong[: len(right)].ljust(len(right)))))
        assert {dtype for _, dtype, _ in (*model.inputs, *model.outputs)} == {"int32"}


def test_an_output_of_another_dtype_than_its_kernel_writes_is_refused() -> None:
    """Of every operator: a forged dtype must not let a kernel write wider elements than there is room for."""
    looked = 0
    for name, content in write_seeds.of_operators(1):
        start = data_start(content)
        _, _, inputs, outputs, texts = struct.unpack_from("<5I", content, start + 80)
        for number in range(inputs, inputs + outputs):
            at = start + 128 + (texts + 7) // 8 * 8 + 24 * number
            dtype, role = struct.unpack_from("<2I", content, at)
            assert role == 2, name
            for wrong in {3, 4} - {dtype}:
                changed = bytearray(content)
                struct.pack_into("<I", changed, at, wrong)
                looked += 1
                try:
                    model = rt.load(resealed(changed))
                except (rt.FormatError, rt.BackendUnavailable):
                    continue
                assert {op for _, op, _ in model._native.stages} == {"integer"}, name
    assert looked > 100


class Sound(nn.Module):
    """What converters give, in and out: samples of two bytes and of one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, sound: Tensor, level: Tensor, image: Tensor) -> Any:
        gained = (self.layer(sound / 32768) * 20_000).clamp(-32768, 32767).to(torch.int16)
        high = (sound >> 8).to(torch.int8)
        return gained, sound - level, level * 3, (level > 0) & (sound < 100), image + 9, high, image.float()


def small(dtype: torch.dtype, *shape: int) -> Tensor:
    info = torch.iinfo(dtype)
    return torch.randint(info.min, info.max + 1, shape).to(dtype)


def test_whole_numbers_of_one_and_two_bytes(tmp_path: Path, in_c: Callable[..., bytes]) -> None:
    for seed in range(examples(4)):
        torch.manual_seed(seed)
        width = int(torch.randint(1, 140, ()))
        kinds = (torch.int16, torch.int8, torch.uint8)
        model = Sound(width).eval()
        fast = rt.compile(model, tuple(small(kind, 2, width) for kind in kinds), strict=True)
        loaded = rt.load(rt.save(fast, tmp_path / "sound.rta"))
        assert [dtype for _, dtype, _ in loaded.inputs] == ["int16", "int8", "uint8"]
        assert [dtype for _, dtype, _ in loaded.outputs] == [
            "int16",
            "int16",
            "int8",
            "bool",
            "uint8",
            "int8",
            "float32",
        ]
        for rows in (1, 3, 37):
            given = [small(kind, rows, width) for kind in kinds]
            want = flat(fast(*given))
            arrays = [x.numpy() for x in given]
            outs = tuple(np.full(y.shape, 113).astype(y.dtype) for y in want)
            loaded.run(*arrays, out=outs)
            for got in (flat(loaded(*arrays)), flat(loaded(*given)), flat(outs)):
                for y, z in zip(got, want, strict=True):
                    assert y.dtype == z.dtype
                    np.testing.assert_array_equal(y, z)
            assert in_c(tmp_path / "sound.rta", [arrays], rows) == b"".join(y.tobytes() for y in want)
            for y, z in zip(want[1:], flat(model(*given))[1:], strict=True):  # the first is rounded behind a layer
                np.testing.assert_array_equal(y, z)
