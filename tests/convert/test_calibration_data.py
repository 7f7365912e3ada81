"""Calibration takes batches in any usual form, and reports and logs say what was done with them."""

from __future__ import annotations

import collections
import io
import logging
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.convert.module_swap import benchmark
from rtaccel.core import progress
from tests.support.networks.nn_modules import FORMS, same_bits
from tests.support.networks.swapped_models import actions, make


@pytest.fixture(autouse=True)
def _every_swap_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "compare", lambda before, after, x: benchmark.Compared(2.0, 1.0))


class ByDlpack:
    """An array of a library that knows DLPack alone."""

    def __init__(self, x: Tensor) -> None:
        self._x = x

    def __dlpack__(self, **options: Any) -> Any:
        return self._x.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._x.__dlpack_device__()


def read_only(x: Tensor) -> np.ndarray:
    array = x.numpy().copy()
    array.setflags(write=False)
    return array


Named = collections.namedtuple("Named", ["x"])
KINDS: dict[str, Callable[[list[Tensor]], Any]] = {
    "tuples": lambda batches: [(x,) for x in batches],
    "lists": lambda batches: [[x] for x in batches],
    "named tuples": lambda batches: [Named(x) for x in batches],
    "a generator": lambda batches: (x for x in batches),
    "a loader": lambda batches: torch.utils.data.DataLoader(torch.cat(batches), batch_size=8),
    "NumPy": lambda batches: [x.numpy() for x in batches],
    "NumPy, read-only": lambda batches: [read_only(x) for x in batches],
    "NumPy, backwards": lambda batches: [x.flip(0).numpy()[::-1] for x in batches],
    "NumPy in tuples": lambda batches: [(x.numpy(),) for x in batches],
    "DLPack": lambda batches: [ByDlpack(x) for x in batches],
    "strided": lambda batches: [torch.stack([x, x], -1)[..., 0] for x in batches],
    "negative bit": lambda batches: [torch._neg_view(-x) for x in batches],
    "requires grad": lambda batches: [x.clone().requires_grad_() for x in batches],
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_batches_give_the_same_ranges(kind: str) -> None:
    batches, x = [torch.randn(8, 24) for _ in range(3)], torch.randn(4, 24)
    models = [make(seed=3) for _ in range(2)]
    for model, data in zip(models, (batches, KINDS[kind](batches))):
        rt.quantize_(model, "w8a8", calibration=data)
    assert torch.equal(models[0](x), models[1](x))
    if kind != "named tuples":
        fast = [rt.compile(make(seed=3), (x,), "w8a8", calibration=data) for data in (batches, KINDS[kind](batches))]
        assert torch.equal(fast[0](x), fast[1](x))
    pruned = [make(seed=3) for _ in range(2)]
    for model, data in zip(pruned, (batches, KINDS[kind](batches))):
        rt.sparsify_(model, rt.Unstructured(0.5), calibration=data, method="wanda", swap=False)
    assert torch.equal(pruned[0](x), pruned[1](x))


def test_one_array_is_one_batch_and_keywords_are_taken() -> None:
    data, x = np.random.default_rng(5).standard_normal((16, 24), dtype="float32"), torch.randn(4, 24)
    models = [make(seed=3) for _ in range(3)]
    for model, batches in zip(models, (data, torch.from_numpy(data), [{"input": data}])):
        rt.quantize_(model, "w8a8", calibration=batches)
    assert torch.equal(models[0](x), models[1](x)) and torch.equal(models[0](x), models[2](x))


@pytest.mark.parametrize(
    "name", ["QuantLinear-w8a8-static-bias", "QuantConv1d-w8a8-static", "QuantGRU-w8a8-static-one"]
)
def test_modules_take_arrays_too(name: str) -> None:
    form = FORMS[name]
    plain, inputs = form.plain().eval(), form.inputs()
    made = type(form.swapped())
    layers = [made.from_float(plain, "w8a8", data) for data in (list(inputs), [x.numpy() for x in inputs])]
    assert same_bits(layers[0](*inputs), layers[1](*inputs))


def test_the_model_runs_as_it_is_where_a_batch_fails() -> None:
    model = make()
    before = {k: t.clone() for k, t in model.state_dict().items()}

    def data() -> Any:
        yield torch.randn(3, 24)
        raise OSError("disk")

    for call in (
        lambda: rt.quantize_(model, "w8a8", calibration=data()),
        lambda: rt.sparsify_(model, rt.Unstructured(0.5), calibration=data()),
    ):
        with pytest.raises(rt.FormatError, match=r"OSError: disk at batch 1") as caught:
            call()
        assert isinstance(caught.value.__cause__, OSError)
    assert all(torch.equal(t, before[k]) for k, t in model.state_dict().items())
    assert all(type(m) in (nn.Sequential, nn.Linear, nn.ReLU, nn.Tanh) for m in model.modules())


# -- what is said of it ------------------------------------------------------------------------------------------------


def test_a_pattern_that_fits_nothing_is_a_warning_and_a_note() -> None:
    model = make()
    with pytest.warns(UserWarning, match=r"'3\.weight' fits no module.*did you mean '3'"):
        report = rt.quantize_(model, {"3.weight": "w8a8", "0": "w8a8"})
    assert actions(report)["0"] == "swapped" and actions(report)["3"] == "kept"
    assert "note: the pattern '3.weight'" in str(report) and len(report.notes) == 1
    with pytest.warns(UserWarning, match="'decoder"):
        sparse = rt.sparsify_(make(), {"decoder.*": "unstructured"})
    assert sparse.notes and sparse.changed == 0


def test_log_lines(logged: list[logging.LogRecord]) -> None:
    log = logging.getLogger("rtaccel")
    level = log.level
    log.setLevel(logging.DEBUG)
    try:
        rt.quantize_(make(), {"0": "w8a8"})
        rt.sparsify_(make(), {"0": rt.Unstructured(0.5)})
    finally:
        log.setLevel(level)
    said = [(r.levelname, r.getMessage()) for r in logged if r.name == "rtaccel"]
    assert ("INFO", "quantize_: 1 layers swapped, 2 kept") in said
    assert any(level == "DEBUG" and text.startswith("quantize_: 3 kept: its scheme is float32") for level, text in said)
    assert any(
        level == "INFO" and text.startswith("sparsify_: 1 of 3 matrices changed, 50.0% zeros") for level, text in said
    )


def reports() -> list[Any]:
    return [rt.quantize_(make(), {"0": "w8a8"}), rt.sparsify_(make(), {"0": rt.Unstructured(0.5)})]


def test_reports_in_a_notebook() -> None:
    for report in reports():
        text = report._repr_html_()
        assert text.count("<tr>") == 1 + len(report) and "<th>layer</th>" in text and "swapped" in text
    odd = rt.SwapReport((), ("<script>",))
    assert "&lt;script&gt;" in odd._repr_html_() and "<script>" not in odd._repr_html_()


def test_to_dataframe_with_and_without_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    pandas = types.ModuleType("pandas")
    pandas.DataFrame = lambda rows, columns: made.append((rows, columns)) or "frame"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    for report in reports():
        assert report.to_dataframe() == "frame"
        rows, columns = made[-1]
        assert [row["fqn"] for row in rows] == [e.fqn for e in report] and list(rows[0]) == columns
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(rt.BackendUnavailable, match=r"rtaccel\[table\]"):
        reports()[0].to_dataframe()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal_after_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    now = iter(range(1000))
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(progress, "monotonic", lambda: next(now))
    rt.quantize_(make(), "w8a8", calibration=[torch.randn(3, 24) for _ in range(5)])
    assert "calibration" in screen.getvalue() and "of 5 batches" in screen.getvalue()
    quick = Terminal()
    monkeypatch.setattr(sys, "stderr", quick)
    monkeypatch.setattr(progress, "monotonic", lambda: 0.0)
    rt.quantize_(make(), "w8a8", calibration=[torch.randn(3, 24) for _ in range(5)])
    assert not quick.getvalue()


def test_no_bar_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 10_000, 100))
    monkeypatch.setattr(progress, "monotonic", lambda: next(now))
    for stream in (io.StringIO(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        rt.quantize_(make(), "w8a8", calibration=[torch.randn(3, 24)])
        assert stream is None or not stream.getvalue()


@pytest.mark.parametrize(
    "form", [lambda x: x.to(memory_format=torch.channels_last), lambda x: x.mT.contiguous().mT, lambda x: x[:, :, ::2]]
)
def test_batches_may_lie_anyhow(form: Callable[[Tensor], Tensor]) -> None:
    """A view at capture is a copy then."""
    x = form(torch.randn(6, 3, 10, 4))
    model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 5), nn.ReLU(), nn.Linear(5, 4)).eval()
    dense = x.contiguous()
    fast = rt.compile(model, dense, "w8a8", calibration=[x])
    assert torch.equal(fast(dense), rt.compile(model, dense, "w8a8", calibration=[dense])(dense))
