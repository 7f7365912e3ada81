"""A model from a file gives the bits of the model that was saved: from Python without torch's help, and from C."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn
from torch.utils import _pytree as pytree

import rtaccel as rt
from tests.deploy.forged import resealed
from tests.generated.test_batches import COMMON
from tests.support import stages
from tests.support.compare import outcome, quiet
from tests.support.generators import streams
from tests.support.generators.count import examples
from tests.support.generators.models import built, inputs_of, models, packed
from tests.support.networks.call import Call


def arrays(result: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in pytree.tree_leaves(result)]


def same_bits(a: Any, b: Any) -> bool:
    first, second = arrays(a), arrays(b)
    return len(first) == len(second) and all(
        p.dtype == q.dtype and p.shape == q.shape and p.tobytes() == q.tobytes() for p, q in zip(first, second)
    )


def savable(fast: rt.CompiledModel) -> bool:
    return fast._executor.direct is not None and all(step.native for step in fast._executor.steps)


@pytest.mark.parametrize(("name", "scheme"), stages.pairs())
def test_every_kind_of_stage(name: str, scheme: str, tmp_path: Path, in_c: Callable[..., bytes]) -> None:
    fast = stages.shared(name, scheme, 1)
    file = tmp_path / "model.rta"
    if not all(step.native for step in fast._executor.steps):
        with pytest.raises(rt.UnsupportedProblem, match="save: got"):
            rt.save(fast, file)
        assert not file.exists()
        return
    assert rt.save(fast, file) == file
    loaded = rt.load(file)
    for rows in (1, 3, 40):
        x = stages.inputs(name, 60 + rows, rows)
        want = quiet(lambda x=x: fast(x))
        assert same_bits(loaded(x.numpy()), want)
        assert same_bits(loaded(x), want)
        assert all(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(loaded(x)))
        assert in_c(file, [[x.numpy()]], rows) == b"".join(a.tobytes() for a in samples_first(file, arrays(want)))


def samples_first(file: Path, results: list[np.ndarray]) -> list[np.ndarray]:
    """As C has them, which knows no other order: states come layers first from torch."""
    with safe_open(file, "numpy") as held:
        dims = held.metadata().get("result_samples", " ".join("0" for _ in results)).split()
    return [np.ascontiguousarray(np.moveaxis(a, int(dim), 0)) for a, dim in zip(results, dims, strict=True)]


@pytest.mark.parametrize("family", ["rows", "windows", "images", "tables", "batch"])
def test_random_models(family: str, tmp_path: Path) -> None:
    saved = 0

    @settings(max_examples=examples(8), **COMMON)
    @given(models(family), st.sampled_from(("float32", "w8a8")))
    def run(d: Any, scheme: str) -> None:
        nonlocal saved
        model = built(d).eval()
        example = packed(d, inputs_of(d, d["example"]))
        fast, _ = outcome(lambda: quiet(lambda: rt.compile(model, example, scheme=scheme, verify=False)))
        if not isinstance(fast, rt.CompiledModel) or not savable(fast):
            return
        loaded = rt.load(rt.save(fast, tmp_path / "model.rta"))
        saved += 1
        for rows in (1, 3, 7, d["example"]):
            if rows in fast.batch:
                call = packed(d, inputs_of(d, rows, seed=rows))
                want = quiet(lambda call=call: fast(*call))
                got = loaded(*pytree.tree_map(lambda t: t.numpy() if isinstance(t, torch.Tensor) else t, call))
                assert same_bits(got, want)

    run()
    assert saved


def test_random_streams(tmp_path: Path, in_c: Callable[..., bytes]) -> None:
    @settings(max_examples=examples(10), **COMMON)
    @given(streams.descriptions())
    def run(d: Any) -> None:
        live = streams.streamed(d)
        file = rt.save(live, tmp_path / "stream.rta")
        loaded = rt.load(file)
        steps = streams.time_steps(d, 7, 5)
        want = [live.step(x) for x in steps]
        assert loaded.streams == live.streams
        assert same_bits([loaded.step(x.numpy()) for x in steps], want)
        assert in_c(file, [[x.numpy()] for x in steps], live.streams) == b"".join(y.numpy().tobytes() for y in want)
        past = loaded.save_state()
        live.reset([0])
        loaded.reset([0])
        going_on = rt.load(rt.save(live, tmp_path / "states.rta", states=True))
        after = [live.step(x) for x in steps]
        assert same_bits([loaded.step(x.numpy()) for x in steps], after)
        assert same_bits([going_on.step(x.numpy()) for x in steps], after)
        loaded.load_state(past)
        assert loaded.save_state() == past

    run()


def test_any_tool_lists_it(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(9, 33), nn.ReLU(), nn.Linear(33, 5)).eval()
    fast = rt.compile(model, torch.randn(1, 9))
    file = rt.save(fast, tmp_path / "mlp.rta", name="mlp", metadata={"verdict": "PASS"})
    with safe_open(file, "pt") as opened:
        names = set(opened.keys())
        for layer in ("0", "2"):
            for what in ("weight", "bias"):
                own = getattr(model[int(layer)], what)
                assert torch.equal(opened.get_tensor(f"{layer}.{what}"), own)
        metadata = opened.metadata()
    assert "plan" in names
    assert (metadata["name"], metadata["verdict"], metadata["scheme"]) == ("mlp", "PASS", "float32")
    data = file.read_bytes()
    assert len(data) <= fast.weight_bytes + 5000
    assert all(kernel.encode() not in data for _, _, kernel in rt.load(file).stages)


def test_the_same_file_whoever_writes_it(tmp_path: Path) -> None:
    model, x = nn.Linear(7, 3).eval(), torch.randn(2, 7)
    files = [rt.save(rt.compile(copy.deepcopy(model), x), tmp_path / f"{i}.rta").read_bytes() for i in range(2)]
    assert files[0] == files[1]


def test_bound_and_written_in_place(tmp_path: Path) -> None:
    fast = rt.compile(nn.Linear(7, 3).eval(), torch.randn(2, 7))
    loaded = rt.load(rt.save(fast, tmp_path / "m.rta"))
    x, y = np.random.default_rng(0).standard_normal((4, 7)).astype(np.float32), np.full((4, 3), np.nan, np.float32)
    assert loaded.run(x, out=y) is y
    want = fast(torch.from_numpy(x)).numpy()
    assert same_bits(y, want)
    step = loaded.bind(x, out=y)
    x *= 2
    y[:] = np.nan
    step()
    assert same_bits(y, fast(torch.from_numpy(x)))
    latency = rt.measure(step, samples=100)
    assert latency.n >= 100


def test_nested_states(tmp_path: Path) -> None:
    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTMCell(5, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]) -> Any:
            h, c = self.cell(x, state)
            return self.head(h), (h, c)

    call = (torch.randn(3, 5), (torch.randn(3, 8).tanh(), torch.randn(3, 8)))
    fast = rt.compile(Cell().eval(), call)
    loaded = rt.load(rt.save(fast, tmp_path / "cell.rta"))
    got = loaded(call[0].numpy(), tuple(s.numpy() for s in call[1]))
    assert [type(part) for part in got] == [np.ndarray, tuple]
    assert same_bits(got, fast(*call))


class Ends(nn.Module):
    """A recurrent layer and what is returned of it."""

    def __init__(self, layer: nn.Module, form: str) -> None:
        super().__init__()
        self.layer, self.form = layer, form

    def forward(self, x: torch.Tensor) -> Any:
        y, states = self.layer(x)
        if self.form == "states first":
            return states, y
        return (y, states, y[:, -1]) if self.form == "last step too" else (y, states)


@pytest.mark.parametrize("form", ["layer", "states first", "last step too"])
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
@pytest.mark.parametrize(("layers", "both"), [(1, False), (2, False), (2, True)])
def test_last_states_of_a_recurrent_layer(
    kind: Any, layers: int, both: bool, form: str, tmp_path: Path, in_c: Callable[..., bytes]
) -> None:
    """They are returned layers first, and lie samples first."""
    layer = kind(5, 8, layers, batch_first=True, bidirectional=both)
    for scheme in ("float32", "w8a8"):
        calibration = [torch.randn(9, 6, 5)] if scheme == "w8a8" else None
        fast = rt.compile(Ends(layer, form).eval(), torch.randn(2, 6, 5), scheme, calibration=calibration)
        file = rt.save(fast, tmp_path / "model.rta")
        loaded = rt.load(file)
        for rows in (1, 2, 5):
            x = torch.randn(rows, 6, 5)
            want, own = fast(x), loaded(x.numpy())
            assert same_bits(own, want)
            assert same_bits(loaded(x), want)
            pytree.tree_map(lambda a: a.fill(np.nan), own)
            assert same_bits(loaded.run(x.numpy(), out=own), want)
            pytree.tree_map(lambda a: a.fill(np.nan), own)
            loaded.bind(x.numpy(), out=own)()
            assert same_bits(own, want)
            lies = [np.moveaxis(a, 1, 0) if a.shape[1:] == (rows, 8) else a for a in arrays(want)]
            assert in_c(file, [[x.numpy()]], rows) == b"".join(np.ascontiguousarray(a).tobytes() for a in lies)
        assert [shape[0] for _, _, shape in loaded.outputs] == [-1] * len(loaded.outputs)
    dense = pytree.tree_map(np.ascontiguousarray, own)
    if layers > 1:
        with pytest.raises(rt.ShapeError, match="strided"):
            loaded.run(x.numpy(), out=dense)
    else:
        assert same_bits(loaded.run(x.numpy(), out=dense), want)


def test_forged_dimensions_of_results_are_refused(tmp_path: Path) -> None:
    fast = rt.compile(nn.GRU(5, 8, batch_first=True).eval(), torch.randn(2, 6, 5))
    whole = rt.save(fast, tmp_path / "model.rta").read_bytes()
    right = b'"result_samples":"0 1"'
    assert whole.count(right) == 1
    for wrong in (b"0 3", b"0-1", b"011", b"0  ", b"  1", b"a b", b"0 ?"):
        with pytest.raises(rt.FormatError, match="names no dimensions of 2 results"):
            rt.load(resealed(whole.replace(right, b'"result_samples":"' + wrong + b'"')))
    with pytest.raises(rt.FormatError, match="result_samples"):
        rt.save(fast, tmp_path / "model.rta", metadata={"result_samples": "0 1"})


def test_forged_joins_of_results_are_refused(tmp_path: Path) -> None:
    model = Call(lambda x: (x.exp().reshape(-1, 3), x.tanh())).eval()
    fast = rt.compile(model, torch.randn(2, 6))
    whole = rt.save(fast, tmp_path / "model.rta").read_bytes()
    right = b'"result_joined":"2 1"'
    assert whole.count(right) == 1
    assert [shape for *_, shape in rt.load(whole).outputs] == [(-1, 2, 3), (-1, 6)]
    for wrong in (b"2 3", b"4 1", b"0 1", b"2-1", b"211", b"  2", b"2 a"):
        with pytest.raises(rt.FormatError, match="no dimensions of 2 results"):
            rt.load(resealed(whole.replace(right, b'"result_joined":"' + wrong + b'"')))
    turned = np.zeros((3, 4), np.float32).T  # to be seen as it lies it would be copied
    with pytest.raises(rt.ShapeError):
        rt.load(whole).run(np.zeros((2, 6), np.float32), out=(turned, np.zeros((2, 6), np.float32)))


def test_what_is_not_as_the_plan_has_it_is_named(tmp_path: Path) -> None:
    class Other(nn.Module):
        def __init__(self, form: str) -> None:
            super().__init__()
            self.layer, self.form = nn.Linear(6, 6), form

        def forward(self, x: torch.Tensor, more: torch.Tensor) -> Any:
            y = self.layer(x)
            y = y + more
            return {"keys": {3: y}, "joined": (y, y.view(-1, 2, 3).transpose(0, 1).flatten(1))}[self.form]

    x = torch.randn(2, 6)
    for form, said in (("keys", "other containers than tuples"), ("joined", "number 1 ")):
        with pytest.raises(rt.UnsupportedProblem, match=said):
            rt.save(rt.compile(Other(form).eval(), (x, x.clone())), tmp_path / "model.rta")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_threads_give_the_same_bits(tmp_path: Path) -> None:
    fast = rt.compile(nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 64)).eval(), torch.randn(1, 256))
    file = rt.save(fast, tmp_path / "m.rta")
    x = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    assert same_bits(rt.load(file, threads=2)(x), rt.load(file)(x))
