"""A model as a graph of ATen calls, through torch.export, with the batch dimension left open where the model allows."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from inspect import Parameter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rtaccel.convert.frontend.batches import signature_of
from rtaccel.convert.frontend.exported import least_squares, quantiles
from rtaccel.convert.frontend.exported.containers import of_each_leaf, results_known
from rtaccel.convert.frontend.exported.example import shared_batch
from rtaccel.convert.frontend.exported.graph import ComputedRounds, ExportedGraph, as_graph
from rtaccel.convert.frontend.exported.written_calls import WrittenCalls
from rtaccel.convert.frontend.functional.functionalize import functionalize
from rtaccel.convert.frontend.guards.numbers import Guard
from rtaccel.convert.frontend.guards.refusal import by_numbers, refusal
from rtaccel.convert.frontend.guards.sizes import batch_range
from rtaccel.convert.frontend.packed import packed_sequences
from rtaccel.convert.frontend.private_copy import attributes_kept
from rtaccel.convert.frontend.recurrent_shapes import known_shapes
from rtaccel.convert.frontend.retrace import (
    Retraced,
    reads_constants,
    retrace,
    sized_by_constants,
    transforms_left,
    unlogged,
    with_arguments,
)
from rtaccel.convert.frontend.tracing.lengths import lengths_stay_open
from rtaccel.convert.frontend.tracing.outside_state import outside_kept
from rtaccel.convert.frontend.tracing.raising_modules import raising_modules_leave
from rtaccel.convert.frontend.tracing.settled_numbers import settled_numbers
from rtaccel.convert.frontend.tracing.unasked import masks_as_given, unvalidated
from rtaccel.convert.frontend.trained import as_torch_layers
from rtaccel.core.batch import ANY_BATCH, only
from rtaccel.core.errors import UnsupportedProblem

_TRACED_BATCH = 23
"""Batch used while tracing: export fixes sizes 0 and 1 for good, so a model is traced with another one. A prime that is
unlike any size a model has of its own: a size that agrees by chance would hide that the model depends on it."""


def _export(
    model: nn.Module, args: tuple[Any, ...], any_batch: bool, dims: Mapping[tuple[int, int], tuple[int, int]] = {},
    settled: bool = False,
) -> torch.export.ExportedProgram:  # fmt: skip
    """dims: (argument, dimension) -> bounds, of further dimensions to leave open. settled: constants have their numbers."""
    shapes = None
    if any_batch or dims:
        first = {0: torch.export.Dim.AUTO} if any_batch else {}
        shapes = of_each_leaf(lambda leaf: dict(first) if isinstance(leaf, Tensor) and leaf.dim() else None, args)
        for (argument, dim), (lo, hi) in dims.items():
            shapes[argument][dim] = torch.export.Dim.AUTO(min=max(lo, 2), max=max(hi, 2))
        signature = signature_of(model)
        kinds = [] if signature is None else [p.kind for p in signature.parameters.values()]
        at = kinds.index(Parameter.VAR_POSITIONAL) if Parameter.VAR_POSITIONAL in kinds else len(shapes)
        if at < len(shapes):  # export has `*args` as one argument, and none where nothing is in it
            shapes = (*shapes[:at], tuple(shapes[at:]))
    numbers = settled_numbers(model) if settled else nullcontext()
    with (
        torch.no_grad(), unlogged(), unvalidated(), masks_as_given(), known_shapes(bool(dims)),
        attributes_kept(model), outside_kept(model), transforms_left(), packed_sequences(model, any_batch), WrittenCalls(),
        lengths_stay_open(model), raising_modules_leave(), numbers, results_known(model),
        warnings.catch_warnings(),
    ):  # fmt: skip
        warnings.filterwarnings("ignore", category=FutureWarning)  # torch's own, about its own tree specs
        warnings.filterwarnings("ignore", message="The tensor attribute")  # and about its own nn.LSTM
        try:
            return functionalize(torch.export.export(model, args, dynamic_shapes=shapes, strict=False))
        except Exception as error:
            if not any(name in str(error) for name in (least_squares.NAME, *quantiles.NAMES)):
                raise
        with least_squares.LeastSquares(), quantiles.Quantiles():
            return functionalize(torch.export.export(model, args, dynamic_shapes=shapes, strict=False))


def _with_batch(args: tuple[Any, ...], size: int) -> tuple[Any, ...]:
    """Arguments of another batch. Tracing reads no values, so they have none."""
    return pytree.tree_map(
        lambda leaf: leaf.new_empty((size, *leaf.shape[1:])) if isinstance(leaf, Tensor) else leaf, args
    )


def _apart(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Every argument a tensor of its own: of one given twice torch.export makes one input, and never reads the other."""
    leaves, spec = pytree.tree_flatten(args)
    first = {id(leaf): i for i, leaf in reversed(list(enumerate(leaves)))}
    twice = [isinstance(leaf, Tensor) and first[id(leaf)] != i for i, leaf in enumerate(leaves)]
    return pytree.tree_unflatten([leaf.clone() if again else leaf for leaf, again in zip(leaves, twice)], spec)


def capture(
    model: nn.Module,
    args: tuple[Any, ...],
    fixed: bool = False,
    specialize: bool = False,
    guard: Guard = Guard.NONE,
    rolled: bool = True,
) -> ExportedGraph:
    """Exports the model, layers that trained with fake quantization as the torch layers they were made of, with their numbers
    beside the graph; the rest is `_capture`."""
    with as_torch_layers(model) as trained:
        return replace(_capture(model, _apart(args), fixed, specialize, guard, rolled), trained=trained)


def _capture(
    model: nn.Module, args: tuple[Any, ...], fixed: bool, specialize: bool, guard: Guard, rolled: bool
) -> ExportedGraph:
    """Exports the model; where torch.export cannot, writes down what it calls (retrace). Raises UnsupportedProblem with the cause
    where that is not possible either.

    Tries an open batch first, and takes the shapes of the example as they are where that fails, where the model's code
    depends on the batch in a way that leaves no range of sizes around the example's, or where `fixed`.
    specialize: numbers that the model's Python reads of its inputs are always those of the example. guard: as in `retrace`.
    rolled: as in `as_graph`.
    """
    graph_of = partial(as_graph, rolled=rolled)
    example = None if fixed or specialize else shared_batch(args)
    why = ""
    if example is not None:
        try:
            program = _with_open_batch(model, args, _TRACED_BATCH)
            found = batch_range(program, example) if _batch_is_open(program) else None
            for size in _beside(example) if found is None and _batch_is_open(program) else ():
                beside = _with_open_batch(model, args, size)
                found = batch_range(beside, example) if _batch_is_open(beside) else None
                if found is not None:
                    program = beside
                    break
        except UnsupportedProblem as error:
            found, why = None, str(error.got)
        except Exception as error:  # the model ties its shapes to the example, or export cannot leave them open
            found, why = None, f"torch.export leaves it open for no other: {(str(error).splitlines() or [''])[0][:120]}"
        if found is not None and not found.fixed:
            why = "the model's Python reads numbers of tensors"
            if not reads_constants(program) and not sized_by_constants(program):
                try:
                    return graph_of(program, found, any_batch=True)
                except ComputedRounds:  # counted by the samples, maybe
                    why = "a call has graphs whose rounds or branches the batch or numbers decide"
        why = why or ("; ".join(found.why) if found is not None else "the model's code depends on the batch")
    shared = shared_batch(args)
    batch = ANY_BATCH if shared is None else only(shared, why)
    sized: torch.export.ExportedProgram | None = None  # with calls of sizes that a retrace may know
    if not specialize:
        try:
            program = _export(model, args, any_batch=False)
            if not reads_constants(program) and not sized_by_constants(program):
                return graph_of(program, batch, any_batch=False)
            sized = None if reads_constants(program) else program
            refused = Exception("numbers of tensors are read, which export does not keep")
        except ComputedRounds as error:
            if guard is Guard.NONE:
                raise
            refused = error
        except UnsupportedProblem:
            raise
        except Exception as error:
            refused = error
            if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
                raise refusal(model, refused) from refused  # it runs as it is, with any batch
    try:
        traced = retrace(model, args, specialize, guard)
        made = graph_of(_export(traced.module, traced.tensors, any_batch=False), batch, any_batch=False)
    except Exception as error:
        if sized is not None:
            with suppress(Exception):
                sized = _export(model, args, any_batch=False, settled=True)
            return graph_of(sized, batch, any_batch=False)
        if isinstance(error, UnsupportedProblem):
            raise
        said = error if specialize else refused
        raise said if isinstance(said, UnsupportedProblem) else refusal(model, said) from said
    return _with_arguments(made, traced)


def capture_guarded(model: nn.Module, args: tuple[Any, ...], guard: Guard) -> ExportedGraph | None:
    """The model for the numbers of the example alone, with a flag, where noise on the inputs leaves these numbers as they are;
    None where it does not, or where no number decides anything."""
    why = "numbers of the example decide what is computed"
    made = _of_the_example(model, args, why, False, guard, steady=True)
    return made if made is not None and made.guarded is not None else None


def capture_as_called(model: nn.Module, args: tuple[Any, ...], specialize: bool, guard: Guard) -> ExportedGraph | None:
    """The model as the calls that it makes with the example, where what torch.export sees is another one: its Python asks whether
    it is exported. None where they cannot be written down."""
    return _of_the_example(
        model, args, "the model computes something else where it is exported", specialize, guard, as_called=True
    )


def _of_the_example(
    model: nn.Module, args: tuple[Any, ...], why: str, specialize: bool, guard: Guard, **how: bool
) -> ExportedGraph | None:
    """The model as its calls with the example, in the example's batch. why: no other. how: of `retrace`. None where it fails."""
    shared = shared_batch(args)
    batch = ANY_BATCH if shared is None else only(shared, why)
    with as_torch_layers(model) as trained:
        try:
            traced = retrace(model, _apart(args), specialize, guard, **how)
            made = as_graph(_export(traced.module, traced.tensors, any_batch=False), batch, any_batch=False)
        except Exception:  # the caller has a graph, or an error to tell
            return None
    return replace(_with_arguments(made, traced), trained=trained)


def _with_arguments(made: ExportedGraph, traced: Retraced) -> ExportedGraph:
    """For the arguments of the model itself, and its results."""
    inputs = with_arguments(made.graph, made.inputs, traced)
    made = replace(made, inputs=inputs, in_spec=traced.in_spec, retraced=True)
    if traced.guarded:
        row = pytree.tree_structure((0,) * (traced.out_spec.num_leaves + 1))
        return replace(made, out_spec=row, guarded=traced.out_spec)
    return replace(made, out_spec=traced.out_spec)


def capture_open(
    model: nn.Module, args: tuple[Any, ...], dims: Mapping[tuple[int, int], tuple[int, int]]
) -> tuple[torch.export.ExportedProgram, ExportedGraph]:
    """The model with the batch, where the inputs share one, and further dimensions open: `dims` as in `_export`. Raises what
    torch.export raises."""
    shared = shared_batch(args)
    any_batch = shared is not None
    given = list(_with_batch(args, _TRACED_BATCH) if any_batch else _apart(args))
    for (argument, dim), bounds in dims.items():
        shape = list(given[argument].shape)
        shape[dim] = _traced_size(*bounds)
        given[argument] = given[argument].new_empty(shape)
    with as_torch_layers(model) as trained:
        program = _export(model, tuple(given), any_batch, dims)
    is_open = any_batch and _batch_is_open(program)
    batch = ANY_BATCH if is_open or shared is None else only(shared, "the model's code depends on the batch")
    return program, replace(as_graph(program, batch, is_open), trained=trained)


def _traced_size(lo: int, hi: int) -> int:
    """A size to trace with, unlike those that a model has of its own; one for equal bounds, whose sizes may have to agree."""
    return next((n for n in (37, 41, 43, 29, 19, 13) if lo <= n <= hi), max(hi, 2))


def _beside(example: int) -> tuple[int, ...]:
    """Batches to trace with where the model's code asks for a limit between the usual one and the example's: on its side."""
    return next((n for n in (5, 7, 11, 13, 17, 19) if n > example), example), max(example, 2)


def _with_open_batch(model: nn.Module, args: tuple[Any, ...], size: int) -> torch.export.ExportedProgram:
    """The model exported with an open batch, traced with `size`; a second time where its code asks for the batch.

    Code that keeps what it found out for a shape, such as the order of a product of many factors, asks once. So each capture of
    the model is the same. Where the code reads numbers of constants, they are given to it.
    """
    given = _with_batch(args, size)
    settled = False
    try:
        first = _export(model, given, any_batch=True)
        if reads_constants(first) or sized_by_constants(first):
            with suppress(Exception):  # numbers of inputs too
                first, settled = _export(model, given, any_batch=True, settled=True), True
    except Exception as error:
        if not by_numbers(error):
            raise
        first, settled = _export(model, given, any_batch=True, settled=True), True
    if _batch_is_open(first) or reads_constants(first):  # which only a retrace knows: then neither of them is used
        return first
    try:
        second = _export(model, given, any_batch=True, settled=settled)
    except Exception:  # what it keeps belongs to the first export
        return first
    return second if _batch_is_open(second) else first


def _batch_is_open(program: torch.export.ExportedProgram) -> bool:
    wanted = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in wanted and isinstance(node.meta.get("val"), Tensor):
            shape = node.meta["val"].shape
            if not len(shape) or isinstance(shape[0], int) or not shape[0].node.expr.free_symbols:
                return False  # a symbol that torch.export found to be a number is one
    return True
