"""Static activation ranges: the float model is run on calibration data, and the tensors that will be int8 are watched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from rtaccel.convert.frontend.batches import batches_of, first_line, miscounted, tensors, words
from rtaccel.convert.frontend.exported.graph import ExportedGraph
from rtaccel.convert.frontend.run_call import run_call
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.scheme import Observer
from rtaccel.core.stage import QParams
from rtaccel.core.traits import StateObserver
from rtaccel.formats.observe import RangeObserver
from rtaccel.nn.check import describe

__all__ = ["as_args", "batches_of", "calibrate", "run_graph"]


def as_args(batch: Any) -> tuple[Any, ...]:
    """One calibration batch as positional arguments: a tensor, or a tuple or list of them, or of any other arrays."""
    batch = tensors("calibration", batch)
    if isinstance(batch, Tensor):
        return (batch,)
    if isinstance(batch, tuple):
        return batch
    raise ShapeError(
        "calibration", type(batch).__name__, "each batch a tensor or a tuple of model inputs", "Wrap it in a tuple."
    )


class ValueObserver(Protocol):
    """Sees the values of one node, one batch after the other."""

    def observe(self, x: Tensor) -> None: ...


def run_graph(
    exported: ExportedGraph,
    args: tuple[Any, ...],
    watch: Mapping[str, ValueObserver],
    hidden: Mapping[str, StateObserver],
) -> None:
    """Runs the captured graph as torch would, showing the watched values and calls to their observers."""
    if exported.fitted is not None:
        exported = exported.fitted(args)
    leaves = _leaves(exported, args)
    _check(exported, leaves)
    env: dict[str, Any] = dict(exported.constants)
    env.update(zip(exported.inputs, leaves))
    for node in exported.graph.nodes:
        if node.op == "call_function":
            args_now, kwargs_now = fx.map_arg((node.args, node.kwargs), lambda n: env[n.name])
            try:
                env[node.name] = run_call(node, args_now, kwargs_now)
            except Exception as error:
                got = f"a batch with {words(args)}, which {node.target} refuses: {first_line(error)}"
                raise FormatError("calibration", got, "inputs of the model", "Pass batches as the example.") from error
            for name in hidden.keys() & {*exported.repeats.get(node.name, (node.name,))}:
                hidden[name].observe(node, args_now, env[node.name])
        for name in watch.keys() & {*exported.repeats.get(node.name, (node.name,))}:
            made = env[node.name]  # of several results the first has the node's name
            watch[name].observe(made[0] if isinstance(made, (tuple, list)) else made)


def _leaves(exported: ExportedGraph, args: tuple[Any, ...]) -> list[Any]:
    """The tensors of a batch, in the order of the graph's inputs. Raises ShapeError for a batch nested otherwise."""
    leaves, spec = pytree.tree_flatten((args, {}))
    if spec == exported.in_spec:
        return leaves
    takes = exported.in_spec.children()[0].num_children
    if len(args) != takes:
        raise miscounted("calibration", "the batch", len(args), takes)
    expected = ", ".join(_expected(exported, name) for name in exported.inputs)
    raise ShapeError("calibration", f"a batch with {words(args)}", f"nested as the example: {expected}", "Match it.")


def _check(exported: ExportedGraph, leaves: list[Any]) -> None:
    """Raises ShapeError for a tensor of another dtype, device or rank than the graph's, or of other sizes where these are
    fixed: torch does not check all of them and may crash."""
    values = {node.name: node.meta.get("val") for node in exported.graph.nodes if node.op == "placeholder"}
    for name, leaf in zip(exported.inputs, leaves):
        value = values.get(name)
        if not isinstance(value, Tensor):
            continue
        fits = isinstance(leaf, Tensor) and leaf.layout == torch.strided and not leaf.is_nested
        fits = fits and leaf.dtype == value.dtype and leaf.device == value.device and leaf.dim() == value.dim()
        if not fits or any(isinstance(n, int) and n != m for n, m in zip(value.shape, leaf.shape)):
            fixed = "the model fixes it" if not exported.any_batch else "but for the batch"
            raise ShapeError(
                "calibration", f"a batch with an input of shape {list(leaf.shape)}: {describe(leaf)}"
                if isinstance(leaf, Tensor) and not leaf.is_nested else f"a batch with {describe(leaf)}",
                f"{_expected(exported, name)}, as the example: {fixed}", "Make the batches as the example is.",
            )  # fmt: skip


def _expected(exported: ExportedGraph, name: str) -> str:
    value = next(node.meta.get("val") for node in exported.graph.nodes if node.name == name)
    if not isinstance(value, Tensor):
        return type(value).__name__
    shape = ", ".join(str(n) if isinstance(n, int) else "batch" for n in value.shape)
    return f"{str(value.dtype).removeprefix('torch.')}[{shape}] on {value.device}"


def calibrate(
    exported: ExportedGraph,
    calibration: Any,
    wanted: Mapping[str, Observer],
    hidden: Mapping[str, StateObserver],
    own: Mapping[str, RangeObserver],
) -> dict[str, QParams]:
    """Scale and zero point of each wanted value; `hidden` see the calls of their nodes, and values in `own` have an
    observer of their own. Raises FormatError where the data shows none of it."""
    watch = {name: own.get(name) or RangeObserver(name) for name in wanted}
    with torch.no_grad():
        for batch in batches_of("compile", calibration):
            run_graph(exported, as_args(batch), watch, hidden)
    return {name: watch[name].quant(observer) for name, observer in wanted.items()}
