"""What a loop runs: compiled models, streams, C functions and Python callables, as steps of the native loop."""

from __future__ import annotations

import ctypes
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rtaccel import _native as native
from rtaccel.core.errors import FormatError, RtaccelError, ShapeError, UnsupportedProblem
from rtaccel.realtime.latest import DTYPES
from rtaccel.runtime.compiled import CompiledModel


@dataclass(frozen=True)
class CStep:
    """A C function as a step of a loop: `int step(void* self, const void* const* in, void* const* out)`, 0 for success.

    function: a ctypes function pointer, or its address.
    shape, dtype: of what it writes to out[0]; in[0] is what comes before it.
    self_pointer: the first argument.
    warm: it has no state, and may be run for nothing to keep the caches warm.
    """

    function: Any
    shape: tuple[int, ...]
    dtype: str = "float32"
    self_pointer: int = 0
    warm: bool = False


@dataclass(frozen=True)
class SimulatedModel:
    """A model that takes simulated time and gives its input; made by `Simulation.model`."""

    native_sim: Any


@dataclass(frozen=True)
class Made:
    """Steps with what goes in and out of them. plans: of compiled models. in_python: names of Python callables."""

    steps: list[Any]
    shape: tuple[int, ...]
    dtype: str
    plans: list[Any]
    in_python: list[str]


def steps_of(op: str, chain: Any, shape: tuple[int, ...], dtype: str, raised: list[BaseException]) -> Made:
    """A chain of things, or a single one, as native steps. shape, dtype: of the first input.

    raised: where a Python callable puts what it raised.
    Raises UnsupportedProblem for what cannot run on the loop's thread, ShapeError for what does not fit.
    """
    things = list(chain) if isinstance(chain, Sequence) else [chain]
    steps, plans, in_python = [], [], []
    for thing in things:
        if isinstance(thing, CompiledModel):
            step, shape, dtype = _plan_step(op, thing, shape, dtype)
            plans.append(thing._executor.steps[0].plan)
        elif hasattr(thing, "loop_step"):  # what is of a room above: a cascade
            step, shape, dtype, own = thing.loop_step(op, shape, dtype)
            plans += own
        elif isinstance(thing, CStep):
            step, shape, dtype = _c_step(op, thing, shape, dtype), tuple(thing.shape), thing.dtype
        elif isinstance(thing, SimulatedModel):
            step = thing.native_sim.step(_bytes(shape, dtype))
        elif callable(thing) and not isinstance(thing, torch.nn.Module):
            step, shape, dtype = _python_step(op, thing, shape, dtype, raised)
            in_python.append(getattr(thing, "__name__", type(thing).__name__))
        else:
            raise UnsupportedProblem(
                op,
                f"a {type(thing).__name__}",
                "a compiled model, a stream, a cascade, a CStep or a Python callable",
                "Compile the model with rt.compile or rt.stream first.",
            )
        steps.append(step)
    return Made(steps, shape, dtype, plans, in_python)


def without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape without its leading dimensions of one, as that of a batch."""
    sizes = tuple(shape)
    while sizes and sizes[0] == 1:
        sizes = sizes[1:]
    return sizes


def _bytes(shape: tuple[int, ...], dtype: str) -> int:
    return math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize


def _plan_step(op: str, model: CompiledModel, shape: tuple[int, ...], dtype: str) -> tuple[Any, tuple[int, ...], str]:
    executor = model._executor
    if executor.direct is None or not executor.steps[0].native:
        raise UnsupportedProblem(
            op,
            f"{model._options.title} with {len(executor.steps)} steps on {model._options.device}",
            "one native plan on the CPU: a loop has a thread without the GIL",
            "See explain(); pass a Python callable that calls the model where the guarantee is not needed.",
        )
    plan = executor.steps[0].plan
    past = plan.save_state() if plan.state_bytes else None
    refused: RtaccelError | None = None
    for sizes in dict.fromkeys([shape, (1, *shape), shape[1:] if shape[:1] == (1,) else shape]):
        x = torch.zeros(sizes, dtype=getattr(torch, dtype), device="cpu")
        try:
            y = model(x)
        except RtaccelError as error:
            refused = refused or error
            continue
        finally:
            if past is not None:
                plan.load_state(past)
        if not isinstance(y, torch.Tensor):
            raise UnsupportedProblem(op, "a model of several outputs", "one tensor", "Give it one output.")
        step = native.plan_step(plan, (x,), torch.empty_like(y))
        return step, tuple(y.shape), str(y.dtype).removeprefix("torch.")
    raise ShapeError(
        op,
        f"{dtype}{list(shape)} for {model._options.title}",
        "what the model takes",
        f"Make the slot fit; the model says: {refused}",
    ) from refused


def _c_step(op: str, given: CStep, shape: tuple[int, ...], dtype: str) -> Any:
    address = given.function if isinstance(given.function, int) else ctypes.cast(given.function, ctypes.c_void_p).value
    if not address or given.dtype not in DTYPES or any(n < 1 for n in given.shape):
        raise FormatError(op, repr(given), "a function, and a shape and dtype of its output", "See CStep.")
    return native.c_step(
        address, given.self_pointer, _bytes(shape, dtype), _bytes(tuple(given.shape), given.dtype), given.warm, given
    )


def _memory(address: int, count: int) -> Any:
    return (ctypes.c_char * count).from_address(address)


def _python_step(
    op: str, function: Callable[[Any], Any], shape: tuple[int, ...], dtype: str, raised: list[BaseException]
) -> tuple[Any, tuple[int, ...], str]:
    name = getattr(function, "__name__", type(function).__name__)
    first = np.asarray(function(np.zeros(shape, DTYPES[dtype])))
    if first.dtype.name not in DTYPES:
        raise ShapeError(op, f"{first.dtype.name} from {name}", "numbers of a slot's dtype", "Convert the result.")
    warnings.warn(
        f"{name} runs in Python: it takes the GIL, so the loop's promises end where it begins",
        UserWarning,
        stacklevel=5,
    )
    in_bytes, out_bytes = _bytes(shape, dtype), first.nbytes

    def call(source: int, target: int) -> int:
        try:
            x = np.frombuffer(_memory(source, in_bytes), DTYPES[dtype]).reshape(shape)
            y = np.frombuffer(_memory(target, out_bytes), first.dtype).reshape(first.shape)
            result = np.asarray(function(x.copy()))
            if result.shape != y.shape or result.dtype != y.dtype:
                raise ShapeError(
                    op,
                    f"{result.dtype}{list(result.shape)} from {name}",
                    f"{y.dtype}{list(y.shape)}, as for zeros",
                    "Give the same each time.",
                )
            y[...] = result
        except BaseException as error:
            raised.append(error)
            return 1
        return 0

    return native.python_step(call, in_bytes, out_bytes), tuple(first.shape), first.dtype.name
