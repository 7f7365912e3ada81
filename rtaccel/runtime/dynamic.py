"""A compiled model with sizes that change from call to call: one plan for each choice of them, made once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from rtaccel.convert.frontend.private_copy import private_copy
from rtaccel.convert.open_sizes import OpenSizes, Sizes
from rtaccel.core.dynamic import DynamicDim
from rtaccel.core.errors import ShapeError, UnsupportedProblem
from rtaccel.core.process.one_at_a_time import one_at_a_time
from rtaccel.runtime.build import check_state
from rtaccel.runtime.compiled import CompiledModel

MAX_PLANS = 4096
"""Choices of sizes that `prepare` and `seal` make plans for without being asked for each."""


class DynamicModel(nn.Module):
    """Same calls as a CompiledModel, for inputs whose dynamic dimensions have any size within their bounds.

    Tensors are float32 [batch, ...] or int64 for indices, as in the example but for these dimensions.

    Each choice of sizes has a plan of its own, with the kernels that are best for it. It is made when the first call with these
    sizes comes: milliseconds to tenths of a second. `prepare` makes plans ahead, and `seal` makes all of them: from then on no
    call allocates, plans or compiles. Each plan has its own packed weights; `plan_bytes` adds them up.

    A size outside its bounds raises ShapeError. `sizes` lists those that have a plan.
    """

    def __init__(
        self, make: Callable[[tuple[Any, ...]], CompiledModel], open_sizes: OpenSizes, names: tuple[str, ...]
    ) -> None:
        """make: compiles for arguments of given sizes. names: of the arguments."""
        super().__init__()
        self.eval()
        self._make, self._open, self._names = make, open_sizes, names
        self._plans: dict[Sizes, CompiledModel] = {}
        self._sealed = False
        self._at = tuple((d.argument, d.dim) for d in open_sizes.dims)

    # -- calling ---------------------------------------------------------------------------------------------------

    def forward(self, *inputs: Any, **named: Any) -> Any:
        if named:
            inputs = self._in_order(inputs, named)
        return self.plan_for(*inputs)(*inputs)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        return self.forward(*inputs, **named) if not self._has_hooks() else super().__call__(*inputs, **named)

    def run(self, *inputs: Any, out: Any) -> Any:
        """As CompiledModel.run: float32 [batch, ...] in, out in the shape that these sizes give.

        Raises ShapeError for sizes outside the bounds and for an `out` that does not fit.
        """
        return self.plan_for(*inputs).run(*inputs, out=out)

    def bind(self, *inputs: Any, out: Any) -> Callable[[], None]:
        """As CompiledModel.bind, for the sizes of these inputs: float32 [batch, ...], contiguous.

        Raises ShapeError for sizes outside the bounds and for tensors that do not fit.
        """
        return self.plan_for(*inputs).bind(*inputs, out=out)

    def plan_for(self, *inputs: Any) -> CompiledModel:
        """The compiled model for inputs of these sizes, made where it is not there yet."""
        try:
            sizes = tuple([inputs[argument].shape[dim] for argument, dim in self._at])
            return self._plans[sizes]
        except (KeyError, IndexError, AttributeError):
            pass
        for d in self._open.dims:
            if d.argument >= len(inputs) or len(getattr(inputs[d.argument], "shape", ())) <= d.dim:
                got = f"{len(inputs)} arguments" if d.argument >= len(inputs) else f"{d.name} without dimension {d.dim}"
                raise ShapeError("call", got, "arguments as in the example", "Pass those of the model's forward.")
        return self._planned(self._open.sizes_of(inputs))

    # -- preparing -------------------------------------------------------------------------------------------------

    def prepare(self, sizes: Iterable[int | Sizes] | None = None) -> DynamicModel:
        """Makes the plans of these sizes, or of all within the bounds.

        A size is a number where the dynamic dimensions are always equal, else a tuple in the order of `dims`. Raises ShapeError
        for one outside, UnsupportedProblem for more than MAX_PLANS in all.
        """
        for given in self._all() if sizes is None else sizes:
            chosen = given if isinstance(given, tuple) else (given,)
            alike = len(chosen) == 1 and len(self._open.groups) == 1
            self._planned(chosen * len(self._at) if alike else chosen)
        return self

    def seal(self, lock: bool = False, sizes: Iterable[int | Sizes] | None = None) -> DynamicModel:
        """Prepares all sizes, or those given, and seals each plan as CompiledModel.seal does. Other sizes are refused then."""
        self.prepare(sizes)
        for plan in self._plans.values():
            plan.seal(lock)
        self._sealed = True
        return self

    def prefault(self) -> int:
        """Bytes made resident, as CompiledModel.prefault."""
        return sum(plan.prefault() for plan in self._plans.values())

    # -- looking ---------------------------------------------------------------------------------------------------

    @property
    def dims(self) -> tuple[str, ...]:
        """The dynamic dimensions, as `x.shape[1]`."""
        return tuple(map(str, self._open.dims))

    @property
    def sizes(self) -> tuple[Sizes, ...]:
        """The choices of sizes that have a plan."""
        return tuple(sorted(self._plans))

    @property
    def native(self) -> tuple[int, int]:
        """Native stages and all stages, of the plan with the fewest native ones."""
        return min((plan.native for plan in self._plans.values()), key=lambda found: found[0] - found[1])

    @property
    def weight_bytes(self) -> int:
        """Bytes of the logical weights and scales of one plan."""
        return next(iter(self._plans.values())).weight_bytes

    @property
    def plan_bytes(self) -> tuple[int, int]:
        """Bytes of packed weights, and of scratch and states, of all plans."""
        both = [plan.plan_bytes for plan in self._plans.values()]
        return sum(b[0] for b in both), sum(b[1] for b in both)

    def explain(self, verbose: bool = False, measure: bool = True) -> str:
        """What changes from call to call, how plans come to be, and the plan with the largest sizes in full."""
        bounds = ", ".join(f"{d} {d.lo} to {d.hi}" for d in self._open.dims)
        how = (
            "the graph is captured once"
            if self._open.symbolic
            else f"each size is captured by itself: {self._open.why}"
        )
        largest = max(self._plans)
        head = f"dynamic: {bounds}; {how}; {len(self._plans)} of them planned\nsizes {largest}:\n"
        return head + self._plans[largest].explain(verbose, measure)

    def extra_repr(self) -> str:
        return f"{', '.join(self.dims)} dynamic, {len(self._plans)} planned"

    # -- inside ----------------------------------------------------------------------------------------------------

    @one_at_a_time
    def _planned(self, sizes: Sizes) -> CompiledModel:
        if sizes in self._plans:
            return self._plans[sizes]
        if len(sizes) != len(self._open.dims):
            raise ShapeError("prepare", f"sizes {sizes}", f"one for each of {', '.join(self.dims)}", "Pass as many.")
        for dim, size in zip(self._open.dims, sizes):
            if not dim.lo <= size <= dim.hi:
                raise ShapeError(
                    "call", f"{dim} of {size}", f"{dim.lo} to {dim.hi}, the bounds given to compile",
                    "Compile with wider bounds.",
                )  # fmt: skip
        if self._sealed:
            raise UnsupportedProblem(
                "call", f"sizes {sizes} of a sealed model", "sizes that were prepared", "Name them in seal(sizes=...)."
            )
        self._plans[sizes] = self._make(self._open.resized(sizes))
        return self._plans[sizes]

    def _all(self) -> list[Sizes]:
        groups = self._open.groups
        count = 1
        for dims in groups:
            count *= self._open.dims[dims[0]].hi - self._open.dims[dims[0]].lo + 1
        if count > MAX_PLANS:
            raise UnsupportedProblem(
                "prepare", f"{count} choices of sizes", f"at most {MAX_PLANS}", "Name the sizes, or narrow the bounds."
            )
        ranges = [
            range(max(self._open.dims[i].lo for i in g), min(self._open.dims[i].hi for i in g) + 1) for g in groups
        ]
        found = []
        for chosen in itertools.product(*ranges):
            sizes = {i: size for dims, size in zip(groups, chosen) for i in dims}
            found.append(tuple(sizes[i] for i in range(len(sizes))))
        return found

    def _in_order(self, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
        left = [name for name in self._names[len(inputs) :] if name in named]
        if len(left) != len(named):
            raise ShapeError("call", f"arguments {sorted(named)}", ", ".join(self._names), "Name those of the model.")
        return (*inputs, *(named[name] for name in left))

    def _has_hooks(self) -> bool:
        return bool(self._forward_hooks or self._forward_pre_hooks)

    def __deepcopy__(self, memo: dict[int, Any]) -> DynamicModel:
        raise UnsupportedProblem(
            "deepcopy", "a DynamicModel, which makes plans as sizes come", "one that is shared, or another compiled model",
            "Compile the model once more.",
        )  # fmt: skip

    def __reduce__(self) -> Any:
        raise UnsupportedProblem(
            "pickle", "a DynamicModel, which makes plans as sizes come", "a file of rt.save for each size",
            "Save model.plan_for(*inputs), or compile the model there.",
        )  # fmt: skip


def dynamic_model(
    model: nn.Module,
    args: tuple[Any, ...],
    dims: tuple[DynamicDim, ...],
    specialize: bool,
    make: Callable[[tuple[Any, ...], OpenSizes], CompiledModel],
    names: tuple[str, ...],
) -> DynamicModel:
    """Captures the model with the dimensions open, and plans the sizes of the example and the smallest and largest ones.

    make: compiles for arguments, given where their graph is. Raises ShapeError for an example or a model that does not fit
    the bounds, and what `make` raises.
    """
    changes = check_state("compile", model, args)
    sizes = OpenSizes(changes.settle(private_copy("compile", model)), args, dims, specialize)
    found = DynamicModel(lambda given: make(given, sizes), sizes, names)
    ends = tuple(d.lo for d in dims), tuple(d.hi for d in dims)
    for chosen in dict.fromkeys((sizes.sizes_of(args), *ends)):
        check_runs(model, sizes, chosen)
        found.prepare([chosen])
    return found


def check_runs(model: nn.Module, open_sizes: OpenSizes, sizes: Sizes) -> None:
    """Raises ShapeError, in the model's words, where it does not take inputs of these sizes itself."""
    try:
        with torch.no_grad():
            model(*open_sizes.resized(sizes))
    except Exception as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        where = ", ".join(f"{d} = {size}" for d, size in zip(open_sizes.dims, sizes))
        raise ShapeError(
            "compile", f"bounds with {where}, which the model refuses: {said[:200]}", "bounds that the model takes",
            "Narrow them.",
        ) from error  # fmt: skip
