"""From a model to a compiled one that was compared with it: exported on a copy, built, verified, and fixed where it must be."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rtaccel.convert.batch_mode import called_mode, choose_batch_mode, fixed_batch_mode
from rtaccel.convert.frontend.attribute_state import Changes, attribute_state
from rtaccel.convert.frontend.exported.example import shared_batch
from rtaccel.convert.frontend.exported.graph import ChangesItself, ExportedGraph
from rtaccel.convert.frontend.graph.op_graph import OpGraph
from rtaccel.convert.frontend.guards.numbers import Guard
from rtaccel.convert.frontend.private_copy import private_copy
from rtaccel.convert.frontend.tracing.outside_state import Snapshot
from rtaccel.convert.lower import lower
from rtaccel.convert.open_sizes import OpenSizes
from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.log import log
from rtaccel.core.progress import counted
from rtaccel.core.scheme import SchemeMap
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.guarded import GuardedModel
from rtaccel.runtime.options import Options
from rtaccel.runtime.verification.results import cloned
from rtaccel.runtime.verification.verify import narrowed, other_values, tolerance_for, verified

Build = Callable[[ExportedGraph, OpGraph], CompiledModel]

SWAPPED_TOLERANCE = 5e-2
"""Of layers that are int8 already: a sum in another order can fall into the next step."""


class ExportFailed(UnsupportedProblem):
    """A model that has to run as it is; next_step says why."""


class HasState(ExportFailed):
    """A model that changes attributes or buffers of its own from call to call. names: theirs, dotted."""

    names: tuple[str, ...] = ()


class WritesState(HasState):
    """One of which the graph shows it."""


class NoState(UnsupportedProblem):
    """What moved is read by no call: the model is as others are. names: of attributes, dotted."""

    names: tuple[str, ...] = ()


def check_state(op: str, model: nn.Module, args: tuple[Any, ...], notes: frozenset[str] | None = None) -> Changes:
    """What the first call changes in the model for good. Raises HasState, naming them, where attributes carry state from call to
    call.

    An example that the model itself refuses fails here, in the model's words.
    """
    generator = torch.Generator().manual_seed(3)
    found = attribute_state(lambda: private_copy(op, model), args, lambda: other_values(args, generator), notes)
    if found.state:
        refused = HasState(
            op,
            f"{type(model).__name__}, which changes {', '.join('self.' + name for name in found.state)} when called",
            "a model without state of its own",
            "Take the state as an input and return it as an output; rt.stream keeps the state of LSTM, GRU and convolutions.",
        )
        refused.names = found.state
        raise refused
    return found


def build_verified(
    model: nn.Module,
    args: tuple[Any, ...],
    build: Build,
    *,
    verify: bool,
    exact: bool,
    names: tuple[str, ...],
    specialize: bool = False,
    sizes: OpenSizes | None = None,
    guard: Guard = Guard.NONE,
    original: nn.Module | None = None,
    notes: tuple[str, ...] = (),
) -> CompiledModel:
    """Builds the form with the widest range of batches for which the results are the model's.

    exact: what `build` gives computes in float32 on the CPU, and is compared itself. Otherwise a float32 form of the same
    graph is, since the differences of a scheme would hide those of the graph.
    guard: which numbers of the inputs may decide what the plan holds; as in `retrace`.
    original: what the results are compared with, where it is not the model itself, but the TorchScript that this was.
    sizes: has the graph, where the arguments are of one choice of dynamic sizes. notes: attributes that no call reads.
    Raises ExportFailed where the model has to run as it is.
    """
    with counted(f"compile {type(model).__name__}", 3) as advance:
        reference = model if original is None else original
        return _build_verified(
            model, args, build, verify, exact, names, specialize, sizes, guard, reference, advance, frozenset(notes)
        )


def _build_verified(
    model: nn.Module,
    args: tuple[Any, ...],
    build: Build,
    verify: bool,
    exact: bool,
    names: tuple[str, ...],
    specialize: bool,
    sizes: OpenSizes | None,
    guard: Guard,
    original: nn.Module,
    advance: Callable[[], None],
    notes: frozenset[str],
) -> CompiledModel:
    start = time.perf_counter()
    try:
        changes = check_state("compile", model, args, notes) if sizes is None else Changes()
        advance()
        private = changes.settle(private_copy("compile", model)) if sizes is None else sizes.model
        one = sizes.at(sizes.sizes_of(args)) if sizes is not None else None
        captured = one or choose_batch_mode(private, args, specialize, guard)
        exported, graph = captured
        advance()
        log.debug(
            "%s: exported in %.2f s, batch size %s", type(model).__name__, time.perf_counter() - start, exported.batch
        )
    except HasState:
        raise
    except ChangesItself as error:
        written = WritesState("compile", error.got, error.expected, error.next_step)
        written.names = error.names
        raise written from error
    except UnsupportedProblem as error:
        raise ExportFailed("compile", error.got, error.expected, error.next_step) from error
    if not verify:
        return build(exported, graph)
    example = shared_batch(args)
    reference = private_copy("compile", original)
    tolerance = (
        SWAPPED_TOLERANCE if any(d.swapped for d in graph.op_nodes) else tolerance_for(model, args, exported.halves)
    )
    on_cpu = all(t.device.type == "cpu" for t in exported.constants.values())
    forms = _other_forms(exported, private, args, specialize, guard, sizes is None)
    while True:
        fast = build(exported, graph) if exact else None
        shadow = fast if fast is not None else _float32(exported, graph, args, names) if on_cpu else None
        if shadow is None:
            return build(exported, graph).note_verified("not verified: the model is not on the CPU")
        other = exported.retraced and not specialize
        taken = shadow if exported.guarded is None else GuardedModel(shadow, reference, exported.guarded, warns=False)
        found = verified(reference, taken, args, example, shadow.batch, tolerance, other)
        if isinstance(found, str):
            _refuse_outside_state(reference, args)
        if isinstance(found, str) or not found.failed:
            return (fast or build(exported, graph)).note_verified(found if isinstance(found, str) else found.note())
        left = narrowed(exported.batch, example, found)
        if left is not None:
            return build(replace(exported, batch=left), graph).note_verified(found.note())
        worst = example if example in found.failed else next(iter(found.failed))
        differs = found.failed[worst]
        log.info("%s: with a batch of %s %s", type(model).__name__, worst, differs)
        other_form = next(forms, None)
        if other_form is None:
            break
        exported, graph = other_form
        why = f"with a batch of {worst} {differs}"
        exported = replace(exported, batch=replace(exported.batch, why=(*exported.batch.why, why)))
    raise ExportFailed(
        "compile",
        f"{type(model).__name__}, whose compiled form is not the model: {differs}",
        "the model's own results",
        "Please report the model; verify=False compiles it all the same.",
    )


def _other_forms(
    exported: ExportedGraph, model: nn.Module, args: tuple[Any, ...], specialize: bool, guard: Guard, as_called: bool
) -> Iterator[tuple[ExportedGraph, OpGraph]]:
    """What a model may be where its first form is not the model: of the example's shapes alone, and then as it is called, which
    has these shapes too."""
    if not exported.batch.fixed and exported.any_batch:
        yield fixed_batch_mode(model, args)
    called = called_mode(model, args, specialize, guard) if as_called else None
    if called is not None:
        yield called


def _refuse_outside_state(model: nn.Module, args: tuple[Any, ...]) -> None:
    """Of a model that gives another result each time: raises ExportFailed where it does with the same random numbers too, and
    changes tensors outside of its modules."""
    results: list[Any] = []

    def call() -> None:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            results.append(pytree.tree_leaves(model(*cloned(args))))

    before = Snapshot(model)
    call()
    call()
    changed = before.changed()
    same = all(torch.equal(a, b) for a, b in zip(*results) if isinstance(a, Tensor) and isinstance(b, Tensor))
    if changed and not same:
        raise ExportFailed(
            "compile", f"{type(model).__name__}, which changes {', '.join(changed)} outside of its modules when called",
            "a model that keeps its state in buffers or attributes, or has none",
            "Make it a buffer, or take it as an input and return it.",
        )  # fmt: skip


def _float32(exported: ExportedGraph, graph: OpGraph, args: tuple[Any, ...], names: tuple[str, ...]) -> CompiledModel:
    program = lower(exported, graph, SchemeMap("float32"), None, equalize=False)
    rows = max(1, program.samples(pytree.tree_leaves(args)))
    return CompiledModel(program, Options(rows, batch=program.batch), names)
