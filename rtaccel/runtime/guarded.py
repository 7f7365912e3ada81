"""A compiled model whose Python read numbers of its inputs: the plan is right while they are those of the example, and tells."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rtaccel.core.batch import BatchRange
from rtaccel.core.errors import FallbackWarning, FormatError, ShapeError, UnsupportedProblem
from rtaccel.core.process.warn_caller import warn_caller
from rtaccel.plan.explain import Line
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.foreign import as_tensors, holds_foreign
from rtaccel.runtime.inputs import copy_out
from rtaccel.runtime.schedule.nesting import outs_in_order

MISSES, RETRY = 16, 16
"""After so many calls in a row with other numbers, only each RETRY-th call asks the plan first."""

_NOT_OF_THE_PLAN = (FormatError, ShapeError, RuntimeError, IndexError)
"""What a plan raises for other numbers: torch's own errors too, of a call that it computes inside the plan. The model then takes
them, or says what is wrong."""


class _Answers:
    """How many calls the plan answered, how many the model did, and how many of these came last in a row."""

    __slots__ = ("model", "plan", "row", "warned")

    def __init__(self, warns: bool) -> None:
        self.plan = self.model = self.row = 0
        self.warned = not warns

    def begins_with_plan(self) -> bool:
        if self.row < MISSES:
            return True
        self.row += 1
        if self.row % RETRY == 0:
            return True
        self.model += 1
        return False

    def by_plan(self) -> None:
        self.plan += 1
        self.row = 0

    def by_model(self) -> None:
        """After the plan was asked."""
        self.model += 1
        if self.row < MISSES:
            self.row += 1
        if not self.warned:
            self.warned = True
            warn_caller(
                "numbers that the model's Python reads, or shapes, are not those of the example: the model itself gives the "
                "result of such calls, in PyTorch",
                FallbackWarning,
            )  # fmt: skip


class GuardedModel(nn.Module):
    """Same calls as a CompiledModel, of a model whose Python reads numbers of its inputs (`int(lengths.max())`, `if mask.all()`).

    The plan holds what the model computes for the numbers of the example. It computes these numbers in each call too. Where they
    differ, and for tensors of other shapes, the model itself gives the result, in PyTorch. The first such call warns.

    `calls` counts how often the plan gave the result, and how often the model did. `plan` is the compiled model alone; its last
    result is the flag, float32 [1], 0 where the numbers are those of the example.

    Tensors are float32 [batch, ...], int64 or bool as the model takes them. Raises what the model raises; `run` and `bind` raise
    ShapeError.
    """

    plan: CompiledModel
    model: nn.Module
    _answers: _Answers
    _flag: Tensor
    _flags: Any

    def __init__(self, plan: CompiledModel, model: nn.Module, out_spec: Any, warns: bool = True) -> None:
        """model: what computes the result for other numbers. out_spec: how its results are nested. warns: at the first."""
        super().__init__()
        self.eval()
        self.__dict__["plan"] = plan
        self.__dict__["model"] = model  # no layers of this module: its weights are in the plan
        self._out_spec = out_spec
        self._single = out_spec.is_leaf()
        self.__dict__["_answers"] = _Answers(warns)
        self.__dict__["_flag"] = torch.full((1,), torch.nan)
        self.__dict__["_flags"] = self._flag.numpy().data

    # -- calling ---------------------------------------------------------------------------------------------------

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        if self._forward_hooks or self._forward_pre_hooks:
            return super().__call__(*inputs, **named)
        return self.forward(*inputs, **named)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        if named:
            inputs = self.plan._in_order(inputs, named)
        answers = self._answers
        if answers.begins_with_plan():
            try:
                *results, flag = self.plan(*inputs)
                if flag.item() == 0.0:
                    answers.by_plan()
                    return results[0] if self._single else pytree.tree_unflatten(results, self._out_spec)
            except _NOT_OF_THE_PLAN:
                pass
            answers.by_model()
        return self._own(inputs)

    def run(self, *inputs: Any, out: Any) -> Any:
        """As CompiledModel.run: float32 [batch, ...] in and out, or whole numbers; computes into `out` and returns it.

        Raises ShapeError for an `out` that does not fit.
        """
        answers = self._answers
        if answers.begins_with_plan():
            try:
                self.plan.run(*inputs, out=(*outs_in_order("run", out, self._out_spec), self._flag))
                if self._flags[0] == 0.0:
                    answers.by_plan()
                    return out
            except _NOT_OF_THE_PLAN:
                pass
            answers.by_model()
        self._into(inputs, out)
        return out

    def bind(self, *inputs: Any, out: Any) -> Callable[[], None]:
        """As CompiledModel.bind: a call without arguments that reads `inputs` and writes `out` in place, float32 [batch, ...] or
        whole numbers, contiguous.

        Raises ShapeError where a tensor does not fit.
        """
        answers, flag = self._answers, torch.full((1,), torch.nan)
        flags: Any = flag.numpy().data
        bound = self.plan.bind(*inputs, out=(*outs_in_order("bind", out, self._out_spec), flag))

        def call() -> None:
            if answers.begins_with_plan():
                try:
                    bound()
                    if flags[0] == 0.0:
                        answers.by_plan()
                        return
                except _NOT_OF_THE_PLAN:
                    pass
                answers.by_model()
            self._into(inputs, out)

        return call

    def _into(self, inputs: tuple[Any, ...], out: Any) -> None:
        made = as_tensors("run", out, written=True) if holds_foreign(out) else out
        leaves, spec = pytree.tree_flatten(self._own(inputs))
        copy_out(leaves, outs_in_order("run", made, spec))

    def _own(self, inputs: tuple[Any, ...]) -> Any:
        """The model's own results."""
        given = as_tensors("call", inputs) if holds_foreign(inputs) else inputs
        with torch.no_grad():
            return self.model(*given)

    # -- preparing and looking -------------------------------------------------------------------------------------

    def prefault(self) -> int:
        """Bytes of the plan made resident, as CompiledModel.prefault."""
        return self.plan.prefault()

    def seal(self, lock: bool = False) -> GuardedModel:
        """Raises UnsupportedProblem: a call may be the model's own, which allocates."""
        raise UnsupportedProblem(
            "seal", "a model that answers in PyTorch where numbers of its inputs differ", "a plan alone",
            "Compile with specialize=True where the numbers never differ.",
        )  # fmt: skip

    @property
    def calls(self) -> tuple[int, int]:
        """Calls that the plan answered, and those that the model did."""
        return self._answers.plan, self._answers.model

    @property
    def batch(self) -> BatchRange:
        """The batch sizes that the plan takes."""
        return self.plan.batch

    @property
    def native(self) -> tuple[int, int]:
        """Native stages and all stages of the plan."""
        return self.plan.native

    @property
    def _executor(self) -> Any:
        """The plan's, for tools that look at its steps."""
        return self.plan._executor

    @property
    def weight_bytes(self) -> int:
        """Bytes of the logical weights and scales of the plan; the model that answers for other numbers has its own."""
        return self.plan.weight_bytes

    @property
    def plan_bytes(self) -> tuple[int, int]:
        """Bytes of packed weights, and of scratch and states."""
        return self.plan.plan_bytes

    def explain_lines(self, measure: bool = True) -> list[Line]:
        """The stages of the plan, as CompiledModel.explain_lines."""
        return self.plan.explain_lines(measure=measure)

    def explain(self, verbose: bool = False, measure: bool = True) -> str:
        """What the plan takes for granted, how often that held so far, and the plan in full."""
        head = (
            "guarded: not captured for all inputs, as its Python reads numbers of them. The plan is for those of the example; "
            "else the model itself gives the result, in PyTorch. So far the plan answered "
            f"{self.calls[0]} calls, and the model {self.calls[1]}.\n"
        )
        return head + self.plan.explain(verbose, measure)

    def extra_repr(self) -> str:
        return f"{self.calls[0]} calls as planned, {self.calls[1]} with other numbers"

    def __deepcopy__(self, memo: dict[int, Any]) -> GuardedModel:
        return GuardedModel(copy.deepcopy(self.plan), self.model, self._out_spec)

    def __reduce__(self) -> Any:
        raise UnsupportedProblem("pickle", "a GuardedModel", "the model itself", "Compile it again.")
