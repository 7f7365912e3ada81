"""`rt.raw_kernel`: a CUDA kernel of the user's, by CuPy, as an operator that `rt.compile` takes into the graph of a model."""

from __future__ import annotations

import importlib
import inspect
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from rtaccel.core.errors import BackendUnavailable, FormatError, ShapeError

Outputs = Callable[..., "Tensor | tuple[Tensor, ...]"]

RAW_KERNEL = "raw_kernel"
"""The kernel of such a stage, as `explain` names it."""

_defined: dict[Any, RawKernel] = {}
"""By what torch calls: the operator's overload."""
_libraries: dict[str, torch.library.Library] = {}
_OTHERS = frozenset(("aten", "prim", "prims", "rtaccel", "quantized"))


class RawKernel:
    """An operator `torch.ops.<name>` that launches a kernel of the user's. Made by `raw_kernel`."""

    def __init__(
        self, name: str, kernel: Any, outputs: Outputs, launch: Callable[..., Any], cpu: Outputs,
        alignment: int, results: int,
    ) -> None:  # fmt: skip
        self.name, self._kernel, self._outputs, self._launching, self._cpu = name, kernel, outputs, launch, cpu
        self._alignment, self._results = alignment, results

    def __call__(self, *inputs: Tensor) -> Any:
        return getattr(getattr(torch.ops, self.name.partition("::")[0]), self.name.partition("::")[2])(*inputs)

    def __repr__(self) -> str:
        return f"raw_kernel({self.name!r})"

    def where(self, device: str) -> str:
        """What computes it on a device, for `explain`."""
        return "launched by CuPy, on the stream of the model" if device == "cuda" else "by its function for the CPU"

    def declared(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """New memory for the results. Raises FormatError where `outputs` gives something else."""
        made = _listed(self._outputs(*inputs))
        if len(made) != self._results or not all(isinstance(t, Tensor) for t in made):
            raise FormatError(
                self.name, f"outputs= that gives {_described(made)}", f"{self._results} tensors", "Mend it."
            )
        return made

    def on_cpu(self, *inputs: Tensor) -> Any:
        """By the user's function. Raises FormatError for results of another shape or dtype than those declared."""
        made = _listed(self._cpu(*inputs))
        wanted = self.declared(*inputs)
        same = len(made) == len(wanted) and all(isinstance(t, Tensor) for t in made)
        if not same or any(a.shape != b.shape or a.dtype != b.dtype for a, b in zip(made, wanted)):
            raise FormatError(
                self.name,
                f"cpu= that gives {_described(made)}",
                f"{_described(wanted)}, as outputs= declares",
                "Mend one.",
            )
        places = {x.untyped_storage().data_ptr() for x in inputs}
        own = [t.clone() if t.untyped_storage().data_ptr() in places else t for t in made]
        return own[0] if self._results == 1 else tuple(own)

    def on_gpu(self, *inputs: Tensor) -> Any:
        """The kernel on torch's current stream; waits for nothing, so a graph can be captured around it."""
        given = [x.contiguous() for x in inputs]
        made = self.declared(*given)
        for tensor in (*given, *made):
            if not tensor.is_contiguous() or tensor.data_ptr() % self._alignment:
                raise ShapeError(
                    self.name, f"a tensor at {tensor.data_ptr():#x}", f"contiguous memory that {self._alignment} divides",
                    "Pass tensors that torch allocated, or clone() a slice.",
                )  # fmt: skip
        if any(t.numel() for t in made):
            self._launch(*self._checked(self._launching(*given, *made)))
        return made[0] if self._results == 1 else made

    def _checked(self, found: Any) -> tuple[tuple[int, ...], tuple[int, ...], tuple[Any, ...], int]:
        """Grid, block, arguments and bytes of shared memory. Raises FormatError where `launch` gives something else."""
        parts = tuple(found) if isinstance(found, (tuple, list)) else ()
        sizes = [
            p for p in parts[:2] if isinstance(p, (tuple, list)) and 0 < len(p) <= 3 and all(type(n) is int for n in p)
        ]
        if len(parts) not in (3, 4) or len(sizes) != 2 or not isinstance(parts[2], (tuple, list)):
            raise FormatError(
                self.name, f"launch= that gives {parts!r:.120}", "(grid, block, arguments) or (grid, block, arguments, bytes)",
                "Give sizes as tuples of int.",
            )  # fmt: skip
        return tuple(parts[0]), tuple(parts[1]), tuple(parts[2]), int(parts[3]) if len(parts) == 4 else 0

    def _launch(self, grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any], shared_bytes: int) -> None:
        """Memory by its address: to make arrays of it might wait for another stream."""
        cupy = _cupy(self.name)
        numbers = tuple(np.uint64(a.data_ptr()) if isinstance(a, Tensor) else a for a in arguments)
        with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
            self._kernel(tuple(grid), tuple(block), numbers, shared_mem=shared_bytes)


def _listed(found: Any) -> tuple[Any, ...]:
    return tuple(found) if isinstance(found, (tuple, list)) else (found,)


def _cupy(name: str) -> Any:
    try:
        return importlib.import_module("cupy")
    except ImportError as error:
        raise BackendUnavailable(
            name, f"cupy: {error}", "CuPy (cupy-cuda13x), which launches the kernel", "pip install 'rtaccel[cupy13]'."
        ) from error


def _described(tensors: Sequence[Any]) -> str:
    return ", ".join(
        f"{str(t.dtype)[6:]}{list(t.shape)}" if isinstance(t, Tensor) else type(t).__name__ for t in tensors
    )


def raw_kernel(
    name: str,
    kernel: Any,
    *,
    outputs: Outputs,
    launch: Callable[..., Any],
    cpu: Outputs,
    alignment: int = 16,
    results: int = 1,
) -> RawKernel:
    """An operator of your own around a CUDA kernel: call it in a model's `forward`, and `rt.compile(..., device="cuda")` captures
    its launch in the model's graph, on the same stream. Elsewhere `cpu` computes it. Inference only.

    name: "namespace::name", under which torch has it from then on; each once in a process.
    kernel: a `cupy.RawKernel`, or what is called like one: kernel(grid, block, arguments, shared_mem=bytes).
    outputs: (*inputs) -> new tensors for the results, such as `torch.empty_like`: their shapes, dtypes and memory. It is called
        without memory too, and must look at nothing but shapes and dtypes.
    launch: (*inputs, *results) -> (grid, block, arguments), or with bytes of shared memory as a fourth. Tensors among the
        arguments become pointers; numbers have the widths that CuPy gives them, so pass `numpy.int32(n)` for an `int`.
    cpu: (*inputs) -> the same results in PyTorch, for tensors of the CPU. Its parameters are those of the operator, all tensors.
    alignment: bytes that must divide the address of every tensor.
    results: how many tensors `outputs` gives.

    The kernel must write all of its results, and its inputs not at all. It gets contiguous tensors. Raises FormatError for a name
    that is taken and for functions that give something else; a call raises ShapeError for memory that is not aligned, and
    BackendUnavailable on a GPU without CuPy.

    Example:
        >>> import torch, rtaccel as rt
        >>> half = rt.raw_kernel(
        ...     "docs::half", kernel=None, outputs=torch.empty_like, cpu=lambda x: 0.5 * x,
        ...     launch=lambda x, y: ((1,), (128,), (x, y)),
        ... )
        >>> half(torch.ones(3))
        tensor([0.5000, 0.5000, 0.5000])
    """
    space, _, own = name.partition("::")
    if not re.fullmatch(r"[A-Za-z_]\w*::[A-Za-z_]\w*", name) or space in _OTHERS:
        raise FormatError(
            "raw_kernel", f"the name {name!r}", "'namespace::name', in a namespace of your own", "Rename it."
        )
    if any(made.name == name for made in _defined.values()):
        raise FormatError("raw_kernel", f"a second {name}", "a name that is not taken", "Define each once.")
    if results < 1 or alignment < 1:
        raise FormatError("raw_kernel", f"results={results}, alignment={alignment}", "at least 1", "Mend it.")
    made = RawKernel(name, kernel, outputs, launch, cpu, alignment, results)
    parameters = inspect.signature(cpu).parameters
    if not parameters or any(
        p.kind is not p.POSITIONAL_OR_KEYWORD or p.default is not p.empty for p in parameters.values()
    ):
        raise FormatError(
            "raw_kernel", f"cpu= with the parameters {', '.join(parameters)}", "tensors alone", "Name each."
        )
    library = _libraries.setdefault(space, torch.library.Library(space, "FRAGMENT"))
    given, back = ", ".join(f"Tensor {p}" for p in parameters), ", ".join(["Tensor"] * results)
    library.define(f"{own}({given}) -> {back if results == 1 else f'({back})'}")
    library.impl(own, made.on_cpu, "CPU")
    library.impl(own, made.on_gpu, "CUDA")
    library.impl(own, torch.library.fallthrough_kernel, "Autograd")

    def fake(*inputs: Tensor) -> Any:
        found = made.declared(*inputs)
        return found[0] if results == 1 else found

    torch.library.register_fake(name, fake, lib=library)
    _defined[getattr(getattr(torch.ops, space), own).default] = made
    return made


def raw_kernel_of(node: fx.Node) -> RawKernel | None:
    """The user's kernel behind a call of a captured graph, or behind one of its results that is taken; None for another call."""
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return _defined.get(node.target)
