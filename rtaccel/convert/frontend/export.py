"""A model as a graph of ATen calls, through torch.export, with the batch dimension left open where the model allows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from inspect import Parameter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from rtaccel.convert.frontend.all_entries.rewrite import with_all_entries
from rtaccel.convert.frontend.batches import signature_of
from rtaccel.convert.frontend.complex.rewrite import without_complex
from rtaccel.convert.frontend.decompositions.branches import take_of_both
from rtaccel.convert.frontend.decompositions.counting import count_in_float
from rtaccel.convert.frontend.decompositions.half import in_float32
from rtaccel.convert.frontend.decompositions.read_numbers import keep_as_tensors
from rtaccel.convert.frontend.functionalize import functionalize
from rtaccel.convert.frontend.guards.numbers import Guard
from rtaccel.convert.frontend.guards.refusal import refusal
from rtaccel.convert.frontend.guards.sizes import batch_range
from rtaccel.convert.frontend.packed import check_longest, packed_sequences
from rtaccel.convert.frontend.private_copy import attributes_kept
from rtaccel.convert.frontend.recurrent_shapes import known_shapes
from rtaccel.convert.frontend.retrace import (
    Retraced,
    of_inputs,
    reads_constants,
    retrace,
    sized_by_constants,
    transforms_left,
    unlogged,
    with_arguments,
)
from rtaccel.convert.frontend.rolled import with_loops_rolled
from rtaccel.convert.frontend.trained import as_torch_layers
from rtaccel.core.batch import ANY_BATCH, BatchRange, only
from rtaccel.core.errors import ShapeError, UnsupportedProblem
from rtaccel.nn.qat.layers import TrainedNumbers

_TRACED_BATCH = 23
"""Batch used while tracing: export fixes sizes 0 and 1 for good, so a model is traced with another one. A prime that is
unlike any size a model has of its own: a size that agrees by chance would hide that the model depends on it."""


@dataclass(frozen=True)
class ExportedGraph:
    """graph: functional ATen calls. constants: placeholder name -> parameter or buffer. inputs: names of the
    placeholders of the flattened arguments. in_spec, out_spec: how arguments and results are nested.
    any_batch: the first dimension of every tensor is open in the graph. batch: the sizes of it for which the graph is the
    model. retraced: the calls of one run, not what torch.export took from the code. fitted: the graph for arguments of other
    sizes, where further dimensions are open. trained: numbers of layers that trained with fake quantization, by dotted name.
    halves: what the model's numbers are in that the graph computes in float32.
    guarded: how the model's results are nested, where those of the graph are in one row and a flag is the last of them."""

    graph: fx.Graph
    constants: dict[str, Tensor]
    inputs: tuple[str, ...]
    in_spec: Any
    out_spec: Any
    any_batch: bool
    batch: BatchRange
    retraced: bool = False
    fitted: Callable[[Sequence[Any]], ExportedGraph] | None = None
    trained: Mapping[str, TrainedNumbers] = field(default_factory=dict)
    guarded: Any = None
    halves: tuple[torch.dtype, ...] = ()


@contextmanager
def _unvalidated() -> Iterator[None]:
    """Without the checks of `torch.distributions` on their arguments: they ask for numbers, which a graph does not have. The
    model itself has run with the example before, checks included."""
    kind = torch.distributions.Distribution
    kept = kind._validate_args
    kind.set_default_validate_args(False)
    try:
        yield
    finally:
        kind.set_default_validate_args(kept)


def _export(
    model: nn.Module, args: tuple[Any, ...], any_batch: bool, dims: Mapping[tuple[int, int], tuple[int, int]] = {}
) -> torch.export.ExportedProgram:
    """dims: (argument, dimension) -> bounds, of further dimensions to leave open."""
    shapes = None
    if any_batch or dims:
        first = {0: torch.export.Dim.AUTO} if any_batch else {}
        shapes = pytree.tree_map(lambda leaf: dict(first) if isinstance(leaf, Tensor) and leaf.dim() else None, args)
        for (argument, dim), (lo, hi) in dims.items():
            shapes[argument][dim] = torch.export.Dim.AUTO(min=max(lo, 2), max=max(hi, 2))
        signature = signature_of(model)
        kinds = [] if signature is None else [p.kind for p in signature.parameters.values()]
        if Parameter.VAR_POSITIONAL in kinds:  # export has `*args` as one argument
            at = kinds.index(Parameter.VAR_POSITIONAL)
            shapes = (*shapes[:at], tuple(shapes[at:]))
    with (
        torch.no_grad(), unlogged(), _unvalidated(), known_shapes(bool(dims)), attributes_kept(model), transforms_left(),
        packed_sequences(model, any_batch), warnings.catch_warnings(),
    ):  # fmt: skip
        warnings.filterwarnings("ignore", category=FutureWarning)  # torch's own, about its own tree specs
        warnings.filterwarnings("ignore", message="The tensor attribute")  # and about its own nn.LSTM
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


def shared_batch(args: tuple[Any, ...]) -> int | None:
    """The first dimension of all tensors among the arguments; None where they share none, or it is 0."""
    tensors = [leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, Tensor)]
    batches = {t.shape[0] if t.dim() else None for t in tensors}
    return next(iter(batches)) or None if len(batches) == 1 else None


def check_example(model: nn.Module, args: Sequence[Any] | Tensor) -> tuple[Any, ...]:
    """Arguments as a tuple; errors for what no compiled model could be right about."""
    if isinstance(args, Tensor):
        args = (args,)
    if not isinstance(model, nn.Module):
        raise UnsupportedProblem(
            "compile", type(model).__name__, "a torch.nn.Module", "Wrap the function in a module's forward."
        )
    if not isinstance(args, (tuple, list)):
        raise ShapeError("compile", type(args).__name__, "a tuple of example inputs", "Pass rt.compile(model, (x,)).")
    if model.training:
        raise UnsupportedProblem(
            "compile",
            "a model in training mode",
            "one in eval mode",
            "Call model.eval() first: dropout and BatchNorm differ.",
        )
    signature = signature_of(model)
    try:
        if signature is not None:
            signature.bind(*args)
    except TypeError as error:
        raise ShapeError(
            "compile", f"{len(args)} example inputs: {error}", "arguments that the model's forward takes",
            "Pass the arguments of one call, in order.",
        ) from error  # fmt: skip
    training = [name for name, module in model.named_modules() if module.training]
    if training:
        raise UnsupportedProblem(
            "compile",
            f"{', '.join(training[:4])}{' ...' if len(training) > 4 else ''} in training mode inside a model in eval mode",
            "every module in eval mode",
            "Call model.eval() last, after modules were added or set to train.",
        )
    return tuple(args)


class ChangesItself(UnsupportedProblem):
    """A graph that writes to buffers of the model. names: theirs, dotted."""

    names: tuple[str, ...] = ()


class _ComputedRounds(UnsupportedProblem):
    """A loop or branch that numbers decide is part of the graph."""


def capture(
    model: nn.Module, args: tuple[Any, ...], fixed: bool = False, specialize: bool = False, guard: Guard = Guard.NONE
) -> ExportedGraph:
    """Exports the model, layers that trained with fake quantization as the torch layers they were made of, with their numbers
    beside the graph; the rest is `_capture`."""
    with as_torch_layers(model) as trained:
        return replace(_capture(model, _apart(args), fixed, specialize, guard), trained=trained)


def _capture(model: nn.Module, args: tuple[Any, ...], fixed: bool, specialize: bool, guard: Guard) -> ExportedGraph:
    """Exports the model; where torch.export cannot, writes down what it calls (retrace). Raises UnsupportedProblem with the cause
    where that is not possible either.

    Tries an open batch first, and takes the shapes of the example as they are where that fails, where the model's code
    depends on the batch in a way that leaves no range of sizes around the example's, or where `fixed`.
    specialize: numbers that the model's Python reads of its inputs are always those of the example. guard: as in `retrace`.
    """
    example = None if fixed or specialize else shared_batch(args)
    why = ""
    if example is not None:
        try:
            program = _export(model, _with_batch(args, _TRACED_BATCH), any_batch=True)
            found = batch_range(program, example) if _batch_is_open(program) else None
        except UnsupportedProblem as error:
            found, why = None, str(error.got)
        except Exception as error:  # the model ties its shapes to the example, or export cannot leave them open
            found, why = None, f"torch.export leaves it open for no other: {(str(error).splitlines() or [''])[0][:120]}"
        if found is not None and not found.fixed:
            why = "the model's Python reads numbers of tensors"
            if not reads_constants(program) and not sized_by_constants(program):
                try:
                    return _captured(program, found, any_batch=True)
                except _ComputedRounds:
                    if guard is Guard.NONE:
                        raise
        why = why or ("; ".join(found.why) if found is not None else "the model's code depends on the batch")
    shared = shared_batch(args)
    batch = ANY_BATCH if shared is None else only(shared, why)
    sized: torch.export.ExportedProgram | None = None  # with calls of sizes that a retrace may know
    if not specialize:
        try:
            program = _export(model, args, any_batch=False)
            if not reads_constants(program) and not sized_by_constants(program):
                return _captured(program, batch, any_batch=False)
            sized = None if reads_constants(program) else program
            refused = Exception("numbers of tensors are read, which export does not keep")
        except _ComputedRounds as error:
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
        made = _captured(_export(traced.module, traced.tensors, any_batch=False), batch, any_batch=False)
    except Exception as error:
        if sized is not None:
            return _captured(sized, batch, any_batch=False)
        if isinstance(error, UnsupportedProblem):
            raise
        said = error if specialize else refused
        raise said if isinstance(said, UnsupportedProblem) else refusal(model, said) from said
    return _with_arguments(made, traced)


def capture_guarded(model: nn.Module, args: tuple[Any, ...], guard: Guard) -> ExportedGraph | None:
    """The model for the numbers of the example alone, with a flag, where noise on the inputs leaves these numbers as they are;
    None where it does not, or where no number decides anything."""
    shared = shared_batch(args)
    batch = ANY_BATCH if shared is None else only(shared, "numbers of the example decide what is computed")
    with as_torch_layers(model) as trained:
        try:
            traced = retrace(model, _apart(args), False, guard, steady=True)
            made = _captured(_export(traced.module, traced.tensors, any_batch=False), batch, any_batch=False)
        except Exception:  # the graph that there is already is taken
            return None
    return replace(_with_arguments(made, traced), trained=trained) if traced.guarded else None


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
    return program, replace(_captured(program, batch, is_open), trained=trained)


def _traced_size(lo: int, hi: int) -> int:
    """A size to trace with, unlike those that a model has of its own; one for equal bounds, whose sizes may have to agree."""
    return next((n for n in (37, 41, 43, 29, 19, 13) if lo <= n <= hi), max(hi, 2))


def _batch_is_open(program: torch.export.ExportedProgram) -> bool:
    wanted = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in wanted and isinstance(node.meta.get("val"), Tensor):
            shape = node.meta["val"].shape
            if not len(shape) or isinstance(shape[0], int) or not shape[0].node.expr.free_symbols:
                return False  # a symbol that torch.export found to be a number is one
    return True


def _captured(program: torch.export.ExportedProgram, batch: BatchRange, any_batch: bool) -> ExportedGraph:
    signature = program.graph_signature
    constants: dict[str, Tensor] = {}
    for spec in signature.input_specs:
        if spec.kind.name == "USER_INPUT" or not hasattr(spec.arg, "name"):
            continue
        value = program.state_dict.get(spec.target)
        if value is None:
            value = program.constants.get(spec.target)
        if isinstance(value, Tensor):
            dense = value.layout == torch.strided
            constants[spec.arg.name] = value.detach() if dense else value.detach().to_dense()
    mutated = _keep_own_results(program)
    if mutated:
        refused = ChangesItself(
            "compile",
            f"a model that changes {', '.join(mutated)} when called",
            "a model without state of its own",
            "Return the state as an output and pass it in as an input.",
        )
        refused.names = tuple(mutated)
        raise refused
    take_of_both(program.graph_module)
    called = [n for n in program.graph.nodes if isinstance(n.target, torch._ops.HigherOrderOperator)]
    if called:
        raise _ComputedRounds(
            "compile",
            f"a model that calls torch.{called[0].target.name()}, whose branches or rounds depend on numbers",
            "a graph that is the same at every call",
            "Compute both branches and take one with torch.where, or write a fixed number of rounds out.",
        )
    inputs = tuple(spec.arg.name for spec in signature.input_specs if spec.kind.name == "USER_INPUT")
    check_longest(program.graph)
    halves = in_float32(program.graph, constants, inputs)
    keep_as_tensors(program.graph)
    without_complex(program.graph)  # what is left complex stays PyTorch's
    count_in_float(program.graph)
    return ExportedGraph(
        graph=with_loops_rolled(with_all_entries(program.graph)),
        constants=constants,
        inputs=inputs,
        in_spec=program.call_spec.in_spec,
        out_spec=program.call_spec.out_spec,
        any_batch=any_batch,
        batch=batch,
        halves=halves,
    )


def _keep_own_results(program: torch.export.ExportedProgram) -> list[str]:
    """Takes results that are written back to parameters and buffers off the graph where no input decides them: calls settle them,
    as `attribute_state` has seen. Names of the others."""
    wanted = set(program.graph_signature.user_inputs)
    specs = program.graph_signature.output_specs
    output = next(node for node in program.graph.nodes if node.op == "output")
    results = list(output.args[0])
    kept, mutated = [], []
    for spec, result in zip(specs, results):
        if spec.kind.name == "USER_OUTPUT":
            kept.append(result)
        elif spec.kind.name == "USER_INPUT_MUTATION" or not isinstance(result, fx.Node) or of_inputs(result, wanted):
            mutated.append(str(spec.target))
    if not mutated and len(kept) < len(results):
        output.args = (tuple(kept),)
        program.graph.eliminate_dead_code()
    return mutated
