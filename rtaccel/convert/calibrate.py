"""Static activation ranges: the float model is run on calibration data, and the tensors that will be int8 are watched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from rtaccel.convert.capture import Captured
from rtaccel.convert.hidden import HiddenObserver
from rtaccel.core.errors import ShapeError
from rtaccel.core.scheme import Observer
from rtaccel.core.stage import Quant
from rtaccel.formats.observe import RangeObserver


def as_args(batch: Any) -> tuple[Any, ...]:
    """One calibration batch as positional arguments: a tensor, or a tuple or list of them."""
    if isinstance(batch, Tensor):
        return (batch,)
    if isinstance(batch, (tuple, list)):
        return tuple(batch)
    raise ShapeError(
        "calibration", type(batch).__name__, "each batch a tensor or a tuple of model inputs", "Wrap it in a tuple."
    )


def call_with(model: nn.Module, batch: Any) -> None:
    """One call of a model with a calibration batch: a tensor, a tuple of arguments, or a dict of keyword arguments."""
    if isinstance(batch, Mapping):
        model(**batch)
    elif isinstance(batch, (tuple, list)):
        model(*batch)
    else:
        model(batch)


def batches_of(op: str, calibration: Any) -> Iterable[Any]:
    """Calibration data as an iterable of batches. One tensor is one batch."""
    if isinstance(calibration, Tensor):
        return (calibration,)
    if isinstance(calibration, (Mapping, str)) or not isinstance(calibration, Iterable):
        got = f"calibration: {type(calibration).__name__}"
        raise ShapeError(op, got, "an iterable of batches", "Put the batch into a list.")
    return calibration


def run_graph(
    captured: Captured,
    args: tuple[Any, ...],
    watch: Mapping[str, RangeObserver],
    hidden: Mapping[str, HiddenObserver],
) -> None:
    """Runs the captured graph as torch would, showing the watched values and calls to their observers."""
    leaves, spec = pytree.tree_flatten((args, {}))
    if spec != captured.in_spec:
        raise ShapeError(
            "calibration", f"inputs nested as {spec}", f"the nesting of the example, {captured.in_spec}", "Match it."
        )
    if not captured.any_batch:
        _check_shapes(captured, leaves)
    env: dict[str, Any] = dict(captured.constants)
    env.update(zip(captured.inputs, leaves))
    for node in captured.graph.nodes:
        if node.op == "call_function":
            args_now, kwargs_now = fx.map_arg((node.args, node.kwargs), lambda n: env[n.name])
            env[node.name] = node.target(*args_now, **kwargs_now)
            if node.name in hidden:
                hidden[node.name].see(node, args_now, env[node.name])
        if node.name in watch:
            watch[node.name].see(env[node.name])


def _check_shapes(captured: Captured, leaves: list[Any]) -> None:
    """A graph with fixed shapes holds them in its calls; torch does not check all of them and may crash."""
    shapes = {n.name: tuple(n.meta["val"].shape) for n in captured.graph.nodes if isinstance(n.meta.get("val"), Tensor)}
    for name, leaf in zip(captured.inputs, leaves):
        if isinstance(leaf, Tensor) and tuple(leaf.shape) != shapes.get(name):
            raise ShapeError(
                "calibration",
                f"a batch with an input of shape {list(leaf.shape)}",
                f"{list(shapes.get(name, ()))}, as the example: the model fixes it",
                "Cut the batch into pieces of that shape.",
            )


def calibrate(
    captured: Captured,
    calibration: Any,
    wanted: Mapping[str, Observer],
    hidden: Mapping[str, HiddenObserver],
    own: Mapping[str, RangeObserver],
) -> dict[str, Quant]:
    """Scale and zero point of each wanted value; `hidden` see the calls of their nodes, and values in `own` have an
    observer of their own. Raises FormatError where the data shows none of it."""
    watch = {name: own.get(name) or RangeObserver(name) for name in wanted}
    with torch.no_grad():
        for batch in batches_of("compile", calibration):
            run_graph(captured, as_args(batch), watch, hidden)
    return {name: watch[name].quant(observer) for name, observer in wanted.items()}
