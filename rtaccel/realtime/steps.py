"""What a loop runs: models, streams, C functions and Python callables, as steps of the native loop. Works without torch."""

from __future__ import annotations

import ctypes
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rtaccel import _native as native
from rtaccel.core.errors import FormatError, ShapeError, UnsupportedProblem
from rtaccel.realtime.latest import DTYPES

Port = tuple[tuple[int, ...], str]
"""(shape, dtype) of a tensor that goes into a step, or comes out of it."""

MOST = 16
"""Tensors of a step, RTA_LOOP_PORTS of rta_loop.h."""


@dataclass(frozen=True)
class CStep:
    """A C function as a step of a loop: `int step(void* self, const void* const* in, void* const* out)`, 0 for success.

    function: a ctypes function pointer, or its address.
    shape, dtype: of what it writes to out[0]; in has what comes before it.
    self_pointer: the first argument.
    warm: it has no state, and may be run for nothing to keep the caches warm.
    outputs: ((shape, dtype), ...) of out[0], out[1] and so on, in place of shape and dtype.
    """

    function: Any
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    self_pointer: int = 0
    warm: bool = False
    outputs: tuple[Port, ...] | None = None

    @property
    def gives(self) -> list[Port]:
        """(shape, dtype) of each output."""
        return [(tuple(shape), dtype) for shape, dtype in self.outputs or ((self.shape, self.dtype),)]


@dataclass(frozen=True)
class SimulatedModel:
    """A model that takes simulated time and gives its inputs; made by `Simulation.model`."""

    native_sim: Any


@dataclass(frozen=True)
class Made:
    """Steps with what comes out of them. plans: the native side of models. in_python: names of Python callables."""

    steps: list[Any]
    ports: list[Port]
    plans: list[Any]
    in_python: list[str]


def steps_of(op: str, chain: Any, ports: list[Port], raised: list[BaseException]) -> Made:
    """A chain of things, or a single one, as native steps. ports: of the first inputs.

    raised: where a Python callable puts what it raised.
    Raises UnsupportedProblem for what cannot run on the loop's thread, ShapeError for what does not fit.
    """
    things = list(chain) if isinstance(chain, Sequence) else [chain]
    steps, plans, in_python = [], [], []
    for thing in things:
        if hasattr(thing, "loop_step"):  # what is not of a room below: a cascade, a model from a file
            step, ports, own = thing.loop_step(op, ports)
            plans += own
        elif is_module(thing):
            from rtaccel.realtime.compiled_step import compiled_step

            step, ports, own = compiled_step(op, thing, ports)
            plans += own
        elif isinstance(thing, CStep):
            step, ports = _c_step(op, thing, ports), thing.gives
        elif isinstance(thing, SimulatedModel):
            step = thing.native_sim.step(sizes(ports))
        elif callable(thing):
            step, ports = _python_step(op, thing, ports, raised)
            in_python.append(getattr(thing, "__name__", type(thing).__name__))
        else:
            raise unknown(op, thing)
        steps.append(step)
    return Made(steps, ports, plans, in_python)


def is_module(thing: Any) -> bool:
    """Whether it is of torch.nn, a compiled model say; where torch was never imported nothing is."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(thing, torch.nn.Module)


def unknown(op: str, thing: Any) -> UnsupportedProblem:
    """The error for what is no step."""
    return UnsupportedProblem(
        op,
        f"a {type(thing).__name__}",
        "a compiled model, a stream, a model of rt.load, a cascade, a CStep or a Python callable",
        "Compile the model with rt.compile or rt.stream first.",
    )


def sizes(ports: Sequence[Port]) -> list[int]:
    """Bytes of each."""
    return [math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize for shape, dtype in ports]


def _c_step(op: str, given: CStep, ports: list[Port]) -> Any:
    address = given.function if isinstance(given.function, int) else ctypes.cast(given.function, ctypes.c_void_p).value
    if not address or any(dtype not in DTYPES or any(n < 1 for n in shape) for shape, dtype in given.gives):
        raise FormatError(op, repr(given), "a function, and a shape and dtype of its output", "See CStep.")
    _few(op, "a CStep", ports, given.gives)
    return native.c_step(address, given.self_pointer, sizes(ports), sizes(given.gives), given.warm, given)


def _few(op: str, what: str, ports: Sequence[Port], outs: Sequence[Port]) -> None:
    if not 1 <= len(ports) <= MOST or not 1 <= len(outs) <= MOST:
        raise UnsupportedProblem(
            op, f"{what} of {len(ports)} inputs and {len(outs)} outputs", f"1 to {MOST} each", "Join some of them."
        )


def _memory(address: int, count: int) -> Any:
    return (ctypes.c_char * count).from_address(address)


def _array(address: int, port: Port) -> Any:
    shape, dtype = port
    return np.frombuffer(_memory(address, sizes([port])[0]), DTYPES[dtype]).reshape(shape)


def _python_step(
    op: str, function: Callable[..., Any], ports: list[Port], raised: list[BaseException]
) -> tuple[Any, list[Port]]:
    name = getattr(function, "__name__", type(function).__name__)

    def results(given: Any) -> list[Any]:
        return [np.asarray(y) for y in (given if isinstance(given, (tuple, list)) else (given,))]

    first = results(function(*(np.zeros(shape, DTYPES[dtype]) for shape, dtype in ports)))
    if any(y.dtype.name not in DTYPES for y in first):
        odd = ", ".join(y.dtype.name for y in first)
        raise ShapeError(op, f"{odd} from {name}", "numbers of a slot's dtype", "Convert the result.")
    outs = [(tuple(y.shape), y.dtype.name) for y in first]
    _few(op, name, ports, outs)
    warnings.warn(
        f"{name} runs in Python: it takes the GIL, so the loop's promises end where it begins",
        UserWarning,
        stacklevel=5,
    )

    def call(sources: tuple[int, ...], targets: tuple[int, ...]) -> int:
        try:
            given = [_array(at, port).copy() for at, port in zip(sources, ports, strict=True)]
            made = results(function(*given))
            found = [(tuple(y.shape), y.dtype.name) for y in made]
            if found != outs:
                raise ShapeError(op, f"{found} from {name}", f"{outs}, as for zeros", "Give the same each time.")
            for at, port, y in zip(targets, outs, made, strict=True):
                _array(at, port)[...] = y
        except BaseException as error:
            raised.append(error)
            return 1
        return 0

    return native.python_step(call, sizes(ports), sizes(outs)), outs
