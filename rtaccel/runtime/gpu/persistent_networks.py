"""What can stay on a GPU: a chain of linear layers, a stack of LSTM or GRU with its head, or a stream of causal convolutions.
How each is launched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from torch import Tensor

from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.core.registry import operator
from rtaccel.core.stage import Stage
from rtaccel.core.traits import Persistent
from rtaccel.plan.explain import Line
from rtaccel.runtime.gpu.past.at_rest import AtRest
from rtaccel.runtime.gpu.past.rings import Rings
from rtaccel.runtime.gpu.persistent_chains import STEP, chain_network
from rtaccel.runtime.gpu.persistent_launch import PersistentLaunch, Rounding
from rtaccel.runtime.gpu.persistent_stacks import stack_network
from rtaccel.runtime.gpu.persistent_weights import Packed, WeightSets


class Network(Protocol):
    """inputs, outputs: float32 numbers of a call. programs: of the kernel, a multiprocessor each. commands: whether a message has
    a word more, of what to do before it. states: float32 numbers of its past, which it gives and takes by messages; 0 where
    nobody can ask for them. past: 8-byte words for them that both sides see, put there before it is prepared. at_rest: its past
    in device memory, which lies there from the end of a run to the next start; None where that is not how it keeps it.
    factors: what the host multiplies the numbers of x by before, one each; None where nothing.
    rounding: how the host rounds x to int8 before it sends it; None where messages have float32 numbers.
    sets: its weights on the device, where a message can exchange them; second: which of the two a start begins with.
    ends_by_message: all of its blocks read the mailbox, and end together; else by the word for it, at which the first looks."""

    stages: tuple[Stage, ...]
    inputs: int
    outputs: int
    programs: int
    commands: bool
    states: int
    past: Tensor | None
    at_rest: AtRest | None
    sets: WeightSets | None
    second: int
    factors: Tensor | None

    @property
    def rounding(self) -> Rounding | None: ...

    @property
    def ends_by_message(self) -> bool: ...

    def packed(self, stages: Sequence[Stage]) -> Packed:
        """Weights of other stages of the same structure, for a network with `sets`."""

    def prepared(self, device: str) -> PersistentLaunch:
        """With the weights on the device."""

    def line(self) -> Line:
        """For `explain`."""


class PersistentConvolutions:
    """Stages of one time step, causal convolutions with their rings among them.

    config: a kernels.conv.triton_persistent_config.KernelConfig.
    """

    programs, commands, states = 1, True, 0
    past: Tensor | None = None
    at_rest: AtRest | None = None
    sets: WeightSets | None = None
    second = 0
    factors: Tensor | None = None
    ends_by_message = False
    rounding = None

    def packed(self, stages: Sequence[Stage]) -> Packed:
        from rtaccel.kernels.conv.triton.persistent_config import KernelConfig, Operands, select_config

        other = select_config(stages)
        if not isinstance(other, KernelConfig) or other.constants() != self.config.constants():
            raise FormatError("swap", "another network", "the layers of the running kernel", "Compile that model.")
        return Operands.of(other, "cpu").joined

    def __init__(self, stages: tuple[Stage, ...], config: Any) -> None:
        self.stages, self.config = stages, config
        self.inputs, self.outputs = config.inputs, config.widths[-1]

    def prepared(self, device: str) -> PersistentLaunch:
        from rtaccel.kernels._gpu.triton_launch import bind
        from rtaccel.kernels.conv.triton.persistent import specialize
        from rtaccel.kernels.conv.triton.persistent_config import Operands

        kernel, ops = bind(specialize(self.config)), Operands.of(self.config, "cpu")
        rings, sets = ops.rings.to(device), WeightSets(ops.joined, device)
        self.sets, self.at_rest = sets, Rings(self.config, rings)

        def arguments(requests: Tensor, replies: Tensor, control: Tensor) -> dict[str, Any]:
            return {
                "request_ptr": requests, "reply_ptr": replies, "control_ptr": control,
                "set_ptr": sets.tensors["set"], "rings_ptr": rings, "idle_looks": 0, "second": self.second,
            }  # fmt: skip

        return PersistentLaunch(kernel, 1, arguments, replace(ops, rings=rings))  # it clears its rings itself

    def line(self) -> Line:
        layers = [o for o in self.config.operations if o.kind == "layer"]
        products = sum(o.taps * o.inputs * o.width for o in layers)
        rings = 4 * self.config.rings[-1]
        return Line(
            self.stages[0].name, f"conv {self.inputs}-{'-'.join(str(o.width) for o in layers)}", "triton_persistent",
            4 * (self.inputs + self.outputs), 2 * products,
            (f"one program, its weights in registers, {rings} B of rings in device memory",),
        )  # fmt: skip


def network_of(stages: Sequence[Stage], streamed: bool) -> Network:
    """Of a group that was fused to these stages. streamed: whether states live from call to call.

    Raises UnsupportedProblem where they are neither a chain that fits, nor a stack, nor a stream of convolutions.
    """
    from rtaccel.kernels.conv.triton import persistent_config

    what = ", ".join(f"{s.name} ({s.op})" for s in stages)
    kinds = [operator(s.op).persistent for s in stages]
    if streamed and Persistent.STREAM in kinds:
        config = persistent_config.select_config(stages)
        if isinstance(config, str):
            raise UnsupportedProblem(
                "persistent", what, f"a network that {config}", "Pass calibration=, or stream on the CPU."
            )
        return PersistentConvolutions(tuple(stages), config)
    if kinds == [Persistent.CHAIN]:
        return chain_network(stages[0])
    if kinds[:1] != [Persistent.STACK]:
        raise UnsupportedProblem(
            "persistent", what, "a chain of W8A8 or of W4A8 linear layers with static scales, of one input and output, or a "
            "stream of LSTM or GRU with a linear head, or of causal convolutions", STEP,
        )  # fmt: skip
    if not streamed:
        raise UnsupportedProblem(
            "persistent", what, "a stream, whose states stay with the kernel",
            "Call rt.stream(model, example_step, ..., device='cuda'), or use mode='graph'.",
        )  # fmt: skip
    return stack_network(stages)
