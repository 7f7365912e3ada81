"""A stack of LSTM or GRU with its head that stays on a GPU: by the kernel in CUDA C++ where NVRTC or the store has it, else by
the one in Triton. The first has shared memory as well, and each of its warps waits for words of its own: 4.0 to 4.6 us against
6 to 7 for LSTM_A, estimated from the machine code of both. Which it is and why `explain` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rtaccel.core.errors import BackendUnavailable, UnsupportedProblem
from rtaccel.core.registry import operator
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._persistent.card import Card, card
from rtaccel.kernels.recurrent import lengths
from rtaccel.kernels.recurrent.cuda import choice as cuda_choice
from rtaccel.kernels.recurrent.cuda import kernel as cuda_kernel
from rtaccel.kernels.recurrent.cuda import stages as cuda_stages
from rtaccel.kernels.recurrent.cuda.config import MAX_THREADS, KernelConfig
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.plan.explain import Line
from rtaccel.runtime.gpu.past.at_rest import AtRest
from rtaccel.runtime.gpu.past.states import StackStates
from rtaccel.runtime.gpu.persistent_choice import CUDA_STACK as CUDA
from rtaccel.runtime.gpu.persistent_choice import TRITON, allowed
from rtaccel.runtime.gpu.persistent_launch import PersistentLaunch
from rtaccel.runtime.gpu.persistent_weights import Packed, WeightSets, same_numbers

if TYPE_CHECKING:
    from rtaccel.kernels._gpu.cuda_nvrtc import CudaKernel


class _Stack:
    """An `lstm` or `gru` stage of one time step whose states are its own, and a `linear` stage that reads its int8 output."""

    commands, states = True, 0
    past: Tensor | None = None
    at_rest: AtRest | None = None
    sets: WeightSets | None = None
    second = 0
    factors: Tensor | None = None
    ends_by_message = False
    rounding = None
    kernel = ""

    def packed(self, stages: Sequence[Stage]) -> Packed:
        raise NotImplementedError

    def __init__(self, stages: Sequence[Stage], config: Any, why: tuple[str, ...]) -> None:
        self.stages, self.config, self.why, self.programs = (
            tuple(stages),
            config,
            why,
            int(config.parts),
        )
        self.inputs, self.outputs = self.stages[0].inputs[0].width, self.stages[-1].outputs[0].width

    @property
    def head(self) -> Stage | None:
        return self.stages[1] if len(self.stages) == 2 else None

    def lowered(self) -> tuple[Any, Any]:
        """The folded numbers of the stack, and of its head or None."""
        stack, head = self.stages[0], self.head
        return operator(stack.op).lower(stack), None if head is None else operator(head.op).lower(head)

    def where(self) -> str:
        """What a program has of each layer, and where its weights are."""
        raise NotImplementedError

    def line(self) -> Line:
        stack, config = self.stages[0], self.config
        g = config.geometry
        weights = config.gates * g.hidden * (self.inputs + (2 * g.layers - 1) * g.hidden)
        ends = f", linear {g.hidden}-{self.outputs}" if self.head is not None else ""
        return Line(
            stack.name, f"{stack.op} {self.inputs}-{'-'.join([str(g.hidden)] * g.layers)}{ends}", self.kernel,
            4 * (self.inputs + self.outputs), 2 * weights, (self.where(), *self.why),
        )  # fmt: skip


class TritonStack(_Stack):
    """By kernels/recurrent/triton/persistent.py. config: a triton_config.KernelConfig."""

    kernel = TRITON

    def prepared(self, device: str) -> PersistentLaunch:
        from rtaccel.kernels._gpu.triton_launch import bind
        from rtaccel.kernels.recurrent.triton import persistent

        activation = None if self.head is None else str(self.head.attrs.get("activation", "none"))
        kernel = bind(persistent.specialize(self.stages[0].op, self.config, self.outputs, activation))
        weights, scalars = self._operands()
        sets, exchange = (
            WeightSets(weights, device),
            torch.zeros(persistent.exchange_words(self.config), dtype=torch.int64),
        )
        exchange = exchange.to(device)
        past = torch.zeros(2 * persistent.past_numbers(self.config) + 1, device="cpu").to(device)
        self.sets, self.at_rest = sets, StackStates(past, self.config.geometry.hidden)

        def arguments(requests: Tensor, replies: Tensor, control: Tensor) -> dict[str, Any]:
            return {
                "request_ptr": requests, "reply_ptr": replies, "control_ptr": control, **sets.tensors,
                "exchange_ptr": exchange, "past_ptr": past, **scalars, "idle_looks": 0, "second": self.second,
            }  # fmt: skip

        return PersistentLaunch(kernel, self.config.parts, arguments, (sets, past), [exchange])

    def _operands(self) -> tuple[dict[str, Tensor], dict[str, float | int]]:
        """(what other weights change, what they do not), in host memory."""
        from rtaccel.kernels.recurrent.triton import persistent
        from rtaccel.kernels.recurrent.triton.config import Operands

        low, of_head = self.lowered()
        operands = Operands.of(low, self.config, "cpu")
        weights = persistent.weights_of(operands, persistent.HeadOperands.of(of_head, self.config, "cpu"))
        return weights, persistent.scalars_of(operands)

    def packed(self, stages: Sequence[Stage]) -> Packed:
        weights, scalars = TritonStack(stages, self.config, ())._operands()
        same_numbers(scalars, self._operands()[1])
        return weights

    def where(self) -> str:
        config = self.config
        layers = (
            "all layers"
            if config.layers_in_registers == config.geometry.layers
            else f"{config.layers_in_registers} of {config.geometry.layers} layers"
        )
        return (
            f"{config.parts} programs with {config.units} units of each layer; the weights of {layers} are in registers"
        )


class CudaStack(_Stack):
    """By kernels/recurrent/cuda/recurrent.cu. config: a kernels.recurrent.cuda.config.KernelConfig."""

    kernel = CUDA

    def __init__(self, stages: Sequence[Stage], config: Any, why: tuple[str, ...]) -> None:
        super().__init__(stages, config, why)
        recurrence = operator(self.stages[0].op).recurrence
        assert recurrence is not None
        self.states = config.geometry.layers * config.geometry.hidden * len(recurrence.states)
        self.ends_by_message = config.mapped

    @property
    def compiled(self) -> CudaKernel:
        return cuda_kernel.kernel_of(self.stages[0].op, self.config)

    def prepared(self, device: str) -> PersistentLaunch:
        from rtaccel.kernels._gpu.cuda_launch import bind

        kernel = bind(self.compiled)
        operands = cuda_kernel.Operands.of(*self.lowered(), self.config)
        scalars, sets = operands.scalars, WeightSets(operands.tensors, device)
        words = 1 if self.config.cluster else self.config.exchange_words
        exchange = torch.zeros(words, dtype=torch.int64).to(device)
        past = self.past if self.past is not None else torch.zeros(self.states, dtype=torch.int64)
        self.sets = sets

        def arguments(requests: Tensor, replies: Tensor, control: Tensor) -> dict[str, Any]:
            return {
                "request_ptr": requests, "reply_ptr": replies, "control_ptr": control, "past_ptr": past, **sets.tensors,
                "exchange_ptr": exchange, **scalars, "idle_looks": 0, "second": self.second,
            }  # fmt: skip

        return PersistentLaunch(kernel, self.config.parts, arguments, (sets, past), [exchange])

    def packed(self, stages: Sequence[Stage]) -> Packed:
        """Weights of other stages as the kernel reads them. Raises FormatError where it would compute otherwise with them."""
        other, own = CudaStack(stages, self.config, ()), cuda_kernel.Operands.of(*self.lowered(), self.config)
        found = cuda_kernel.Operands.of(*other.lowered(), self.config)
        same_numbers(found.scalars, own.scalars)
        return found.tensors

    def where(self) -> str:
        config = self.config
        return f"{config.parts} programs of {config.threads} threads with {config.units} units of each layer: {config.where()}"


def stack_network(stages: Sequence[Stage]) -> TritonStack | CudaStack:
    """The network for a stack and what follows it.

    Raises UnsupportedProblem for what neither kernel is for, BackendUnavailable where only the one in CUDA C++ is, and it can
    be had neither from the store nor from a compiler.
    """
    triton, no_triton = _triton(stages)
    cuda, no_cuda = _cuda(stages, no_triton or "answers later")
    if cuda is not None and allowed(CUDA):
        from rtaccel.kernels._gpu import cuda_launch

        no_cuda = cuda_launch.unavailable(cuda.compiled) or ""
        if not no_cuda:
            return cuda if cuda_launch.has_room(cuda.compiled) else _through_l2(cuda)
    if triton is not None and allowed(TRITON):
        if no_cuda:
            triton.why = (*triton.why, f"not {CUDA}, which answers sooner: {no_cuda}")
        return triton
    what = ", ".join(f"{s.name} ({s.op})" for s in stages)
    if cuda is not None:
        raise BackendUnavailable(
            "persistent", what, f"the kernel in CUDA C++ ({no_cuda})",
            "pip install 'rtaccel[cuda]', which brings NVRTC, or build it ahead: rtaccel build-kernels --stream.",
        )  # fmt: skip
    raise UnsupportedProblem(
        "persistent", what, f"a stack that {no_triton or no_cuda}", "Pass calibration=, or stream on the CPU."
    )


def _triton(stages: Sequence[Stage]) -> tuple[TritonStack | None, str]:
    """The network with Triton's kernel, and what speaks against it, if only that it reads weights again."""
    from rtaccel.kernels.recurrent.triton import config as triton_config
    from rtaccel.kernels.recurrent.triton import persistent as triton_persistent

    stack, *following = stages
    problem = Problem.of(stack, 1, "cuda")
    reason = "is one stack and one linear head" if len(following) > 1 else lengths.refused(problem)
    reason = reason or triton_config.unsupported(problem)
    reason = reason or triton_persistent.unsupported(stack, following[0] if following else None)
    if reason is not None:
        return None, reason
    config = triton_config.select_config(problem, _gates(stack))
    if isinstance(config, str):
        return None, config
    layers = config.geometry.layers
    again = (
        ""
        if config.layers_in_registers == layers
        else f"keeps {config.layers_in_registers} of {layers} layers in registers"
    )
    return TritonStack(stages, config, ()), again


def _gates(stack: Stage) -> int:
    recurrence = operator(stack.op).recurrence
    assert recurrence is not None
    return recurrence.gates


def _through_l2(cluster: CudaStack) -> CudaStack:
    """The same without a cluster."""
    config = _config(cluster.stages, replace(card(), has_clusters=False))
    assert config is not None
    why = f"not a cluster of {cluster.config.parts} programs, for which this device has no room"
    return CudaStack(cluster.stages, config, (*cluster.why, why))


def _config(stages: Sequence[Stage], of: Card) -> KernelConfig | None:
    stack, head = stages[0], stages[1] if len(stages) == 2 else None
    return cuda_choice.select_config(
        Geometry.of(stack.attrs), stack.inputs[0].width, _gates(stack), cuda_stages.group_of(stack),
        cuda_stages.head_of(head), of,
    )  # fmt: skip


def _cuda(stages: Sequence[Stage], instead: str) -> tuple[CudaStack | None, str]:
    stack, *following = stages
    if len(following) > 1:
        return None, "is one stack and one linear head"
    head = following[0] if following else None
    reason = lengths.refused(Problem.of(stack, 1, "cuda")) or cuda_stages.unsupported(stack, head)
    if reason is not None:
        return None, reason
    config = _config(stages, card())
    if config is None:
        return None, f"has at most {MAX_THREADS} units of a layer in a program"
    return CudaStack(stages, config, (f"not {TRITON}, which {instead}",) if instead else ()), ""
