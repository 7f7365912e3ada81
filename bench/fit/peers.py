"""Other searches on the same networks in one run: nncf's accuracy-aware quantization over OpenVINO, torchao's autoquant, and
layers reverted one by one with our kernels.

What searches import is in nobody's time: torch.export's modules, nncf and openvino are there before the first watch starts. Each
search then runs twice: what a library still loads or fills on first use is in the first time, and in the second it is not.

    pip install "rtaccel[peers]"

torchao has had no autoquant since 0.15: put an older one, such as 0.14.1, before it on PYTHONPATH to have that row.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import rtaccel as rt
from bench.fit.figures import LOOSE, RANKS, compiled
from bench.fit.tasks import Task
from rtaccel.search.cost_table import whole_calls
from rtaccel.search.workbench import bound


@dataclass(frozen=True)
class Row:
    """What a search gave: a call that is timed, the metric's drop, and what the search took."""

    name: str
    call: Callable[[], Any]
    drop: float
    seconds: float
    cpu: float
    said: str = ""


class Stopwatch:
    def __init__(self) -> None:
        self._start, self._cpu = time.perf_counter(), time.process_time()

    @property
    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._start, time.process_time() - self._cpu


def beside(task: Task, seconds: float) -> None:
    """Every search that is installed, and then all calls that they gave in turn."""
    _import_all()
    rows: list[Row] = []
    again: list[float] = []
    for search in (_fit, _nncf, _fit_low_rank, _reverting, _autoquant):
        try:
            first, second = search(task, seconds), search(task, seconds)
            rows.append(first)
            again.append(second.cpu)
        except Exception as error:  # a peer's own: the others go on, and it is said
            print(
                f"{task.name}: {search.__name__.strip('_')}: {type(error).__name__}: {str(error).splitlines()[0][:200]}"
            )
    with torch.no_grad():
        us = whole_calls({row.name: row.call for row in rows}, 6.0, rounds=400)
    print(f"{task.name}, a drop of {task.max_drop:g} permitted; interleaved minima; searches after all imports")
    print(f"  {'search':<42}{'us':>9}{'drop':>11}{'s':>8}{'CPU s':>8}{'again':>8}")
    for row, second in zip(rows, again):
        print(
            f"  {row.name:<42}{us[row.name]:9.2f}{row.drop:11.4f}{row.seconds:8.2f}{row.cpu:8.2f}{second:8.2f}  {row.said}",
            flush=True,
        )


def _import_all() -> None:
    """What the searches import when they are first called, so that no watch counts it."""
    for name in (
        "torch.export._trace",
        "torch._dynamo",
        "torch._functorch.aot_autograd",
        "torch._decomp",
        "nncf",
        "openvino",
    ):
        with contextlib.suppress(ImportError):  # a search whose library is missing says so itself
            importlib.import_module(name)


def _searched(task: Task, options: tuple[Any, ...], seconds: float, name: str) -> Row:
    watch = Stopwatch()
    fit = rt.fit_budget(task.model, task.example, LOOSE, task.calibration, metric=task.metric, max_drop=task.max_drop,
                        options=options, seconds=seconds)  # fmt: skip
    assert fit.model is not None and fit.best is not None, fit.reason
    call = bound(fit.model, (task.example,))  # type: ignore[arg-type]
    return Row(name, call, fit.best.drop or 0.0, *watch.read, fit.best.name)


def _fit(task: Task, seconds: float) -> Row:
    return _searched(task, ("float32", "w8a8", "w4a8"), seconds, "rtaccel fit_budget, schemes")


def _fit_low_rank(task: Task, seconds: float) -> Row:
    return _searched(task, RANKS, seconds, "rtaccel fit_budget, schemes and ranks")


def _reverting(task: Task, seconds: float) -> Row:
    """All layers int4, then the one that hurts most goes back to float, one validation and one compile each."""
    watch = Stopwatch()
    names = [n for n, m in task.model.named_modules() if isinstance(m, nn.Linear)]
    want = task.metric(task.model)
    scheme: dict[str, Any] = dict.fromkeys(names, "w4a8")
    compiles = 0

    def value(s: dict[str, Any]) -> float:
        nonlocal compiles
        compiles += 1
        return task.metric(compiled(task, s))

    gains = {n: value({**scheme, n: "float32"}) for n in names}
    left = sorted(names, key=lambda n: -gains[n])
    while left and want - value(scheme) > task.max_drop and watch.read[0] < seconds:
        scheme[left.pop(0)] = "float32"
    model = compiled(task, scheme)
    floats = sum(s == "float32" for s in scheme.values())
    took = watch.read
    return Row("int4 reverted layer by layer, our kernels", bound(model, (task.example,)), want - task.metric(model), *took,
               f"{compiles} compiles, {floats} of {len(scheme)} float32")  # fmt: skip


def _nncf(task: Task, seconds: float) -> Row:
    """`nncf.quantize_with_accuracy_control` with the metric as its validation; one thread, shared tensors."""
    import nncf
    import openvino as ov

    watch = Stopwatch()
    want = task.metric(task.model)
    rows, value = task.validate
    model = ov.convert_model(task.model, example_input=task.example)
    model.reshape([-1, *task.example.shape[1:]])

    with torch.no_grad():
        exact = task.model(rows)
    size = max(1, len(rows) // 64)
    parts = [(i, x.numpy()) for i, x in enumerate(rows.split(size))]

    def validated(found: Any, data: Any) -> tuple[float, list[float]]:
        """Of some parts: the metric with the float answers elsewhere, and how far each part is off."""
        answers, errors = exact.clone(), []
        for i, x in data:
            y = torch.from_numpy(found(x)[0].copy())
            place = slice(i * size, i * size + len(y))
            errors.append(-float((y - exact[place]).square().mean()))
            answers[place] = y
        return value(answers), errors

    seen = [x.numpy() for batch in task.calibration for x in batch.split(1)]
    made = nncf.quantize_with_accuracy_control(
        model, nncf.Dataset(seen), nncf.Dataset(parts, lambda part: part[1]), validation_fn=validated,
        max_drop=task.max_drop, drop_type=nncf.DropType.ABSOLUTE, subset_size=len(seen),
    )  # fmt: skip
    took = watch.read
    core = ov.Core()
    config = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    whole = core.compile_model(made, "CPU", config)
    drop = want - value(torch.from_numpy(whole(rows.numpy())[0].copy()))
    made.reshape(list(task.example.shape))
    request = core.compile_model(made, "CPU", config).create_infer_request()
    request.set_input_tensor(ov.Tensor(task.example.numpy().copy(), shared_memory=False))
    layers = [op.get_type_name() for op in made.get_ordered_ops()]
    said = (
        f"nncf {nncf.__version__}, OpenVINO {ov.__version__.split('-')[0]}, {layers.count('FakeQuantize')} FakeQuantize"
    )
    return Row("nncf accuracy-aware, OpenVINO", request.infer, drop, *took, said)


def _autoquant(task: Task, seconds: float) -> Row:
    """torchao's, which times layers and knows no metric."""
    if importlib.util.find_spec("torchao") is None:
        raise RuntimeError("torchao is not installed")
    import torchao

    if not hasattr(torchao, "autoquant"):
        raise RuntimeError(f"torchao {torchao.__version__} has no autoquant; the last with it is 0.14")
    watch = Stopwatch()
    want = task.metric(task.model)
    example: Tensor = task.example.clone()
    with torch.no_grad():
        made = torchao.autoquant(torch.compile(copy.deepcopy(task.model)), error_on_unseen=False)
        made(example)
        made(example)
    took = watch.read
    drop = want - task.metric(made)
    with torch.no_grad():
        made(example)
    return Row("torchao autoquant", lambda: made(example), drop, *took, f"torchao {torchao.__version__}")
