"""From a model over windows to the program of one time step, with its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rtaccel.convert.lower import lower
from rtaccel.convert.passes.program import Argument, Program
from rtaccel.convert.passes.sparse import in_fastest_form
from rtaccel.convert.passes.sparse_gpu import in_predicted_form
from rtaccel.convert.quantization.calibrate import as_args, batches_of
from rtaccel.convert.streaming.window import LAYOUTS, in_rows, stream_graph
from rtaccel.core.batch import ANY_BATCH
from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.scheme import SchemeLike, SchemeMap
from rtaccel.kernels._core.cpu import States


@dataclass(frozen=True)
class StreamedModel:
    """model: over windows in `layout`. program: a time step of all streams. states: what is kept from one to the next. seen: what
    windows of the caller's model are, where that is another layout. results: which of the model's results a step gives; () for
    all."""

    model: nn.Module
    program: Program
    states: States | None
    layout: tuple[str, ...]
    seen: str = ""
    results: tuple[int, ...] = ()


def default_mode(step: Tensor) -> str:
    """On a GPU: of one stream of features a persistent kernel, and else a graph."""
    return "persistent" if step.dim() == 2 and step.shape[0] == 1 else "graph"


def stream_program(
    model: nn.Module,
    step: Tensor,
    scheme: SchemeLike,
    calibration: Any,
    mode: str | None = None,
    context: int | None = None,
    layouts: Sequence[tuple[str, ...]] = LAYOUTS,
    delay: int = 0,
) -> StreamedModel:
    """mode: on a GPU, "persistent" or "graph". layouts: forms that a window may have. delay: steps that a result comes after its
    own."""
    windows = None if calibration is None else [as_args(b)[0] for b in batches_of("stream", calibration)]
    features = step[0].numel() if step.dim() > 1 else None
    calibrated = tuple(windows[0].shape) if windows else None
    streamed = stream_graph(model, features, step.dtype, calibrated, context, layouts, delay)
    if step.dim() > 2:  # a step of several rows comes as it is
        trailing = {**streamed.graph.trailing, streamed.exported.inputs[0]: tuple(step.shape[1:])}
        streamed = replace(streamed, graph=replace(streamed.graph, trailing=trailing))
    batch = streamed.layout.index("batch")
    singles = None if windows is None else [in_rows(w, streamed.layout) for w in _singles(windows, batch)]
    program = lower(streamed.exported, streamed.graph, SchemeMap(scheme), singles, streamed.states)
    shape = (None, *step.shape[1:])
    program = replace(program, arguments=(Argument("x_t", step.dtype, shape),), batch=ANY_BATCH)
    program = replace(program, out_spec=pytree.tree_structure(program.outputs if len(program.outputs) > 1 else ""))
    if len(program.steps) != 1:
        raise UnsupportedProblem(
            "stream", f"{len(program.steps)} steps", "one native plan", "Please report this model."
        )
    if mode is None:
        program = in_fastest_form(program, step.shape[0], None)
    elif mode == "graph":
        program = in_predicted_form(program, step.shape[0], None)
    states = States(frozenset(streamed.states), step.shape[0], streamed.memory)
    kept = states if streamed.states or mode == "graph" else None
    return StreamedModel(model, program, kept, streamed.layout, results=streamed.results)


def _singles(windows: Sequence[Tensor], batch_dim: int) -> list[Tensor]:
    """Calibration windows one by one."""
    return [single for window in windows for single in window.split(1, batch_dim)]
