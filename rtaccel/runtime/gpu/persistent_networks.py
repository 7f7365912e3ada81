"""What can stay on a GPU: a chain of linear layers, a stack of LSTM or GRU with its head, or a stream of causal convolutions.
How each is launched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.registry import operator
from rtaccel.core.stage import Stage
from rtaccel.core.traits import Persistent
from rtaccel.plan.explain import Line
from rtaccel.runtime.gpu.persistent_launch import PersistentLaunch
from rtaccel.runtime.gpu.persistent_stacks import stack_network


class Network(Protocol):
    """inputs, outputs: float32 numbers of a call. programs: of the kernel, a multiprocessor each. commands: whether a message has
    a word more, of what to do before it. states: float32 numbers of its past, which it gives and takes by messages; 0 where
    nobody can ask for them. past: 8-byte words for them that both sides see, put there before it is prepared."""

    stages: tuple[Stage, ...]
    inputs: int
    outputs: int
    programs: int
    commands: bool
    states: int
    past: Tensor | None

    def prepared(self, device: str) -> PersistentLaunch:
        """With the weights on the device."""

    def line(self) -> Line:
        """For `explain`."""


class ResidentChain:
    """An `mlp` stage."""

    programs, commands, states = 1, False, 0
    past: Tensor | None = None

    def __init__(self, stage: Stage) -> None:
        self.stages: tuple[Stage, ...] = (stage,)
        self.inputs, self.outputs = stage.attrs["widths"][0], stage.attrs["widths"][-1]

    def prepared(self, device: str) -> PersistentLaunch:
        from rtaccel.kernels._gpu.triton_launch import bind
        from rtaccel.kernels.mlp import triton_resident
        from rtaccel.kernels.mlp.triton_form import Form, Operands

        stage = self.stages[0]
        kernel, ops = bind(triton_resident.specialise(stage.attrs)), Operands.of(stage, Form.of(stage.attrs), device)

        def arguments(requests: Tensor, replies: Tensor, control: Tensor) -> dict[str, Any]:
            return {
                "request_ptr": requests,
                "reply_ptr": replies,
                "control_ptr": control,
                "idle_looks": 0,
                **ops.arguments(),
            }

        return PersistentLaunch(kernel, 1, arguments, ops)

    def line(self) -> Line:
        attrs = self.stages[0].attrs
        weights = sum(n * k for k, n in pairwise(attrs["widths"]))
        kind = f"int4 weights in groups of {attrs['group_size']}" if "group_size" in attrs else "int8 weights"
        return Line(
            self.stages[0].name, f"mlp {'-'.join(map(str, attrs['widths']))}", "triton_resident",
            4 * (self.inputs + self.outputs), 2 * weights, (f"its {kind} are in registers: a call moves x and y",),
        )  # fmt: skip


class ResidentCut(ResidentChain):
    """An `mlp` stage whose weights are shared by several multiprocessors. cut: a kernels.mlp.triton_cut_form.Cut."""

    def __init__(self, stage: Stage, cut: Any) -> None:
        super().__init__(stage)
        self.cut, self.programs = cut, cut.programs

    def prepared(self, device: str) -> PersistentLaunch:
        from rtaccel.kernels._gpu.triton_launch import bind
        from rtaccel.kernels.mlp import triton_cut
        from rtaccel.kernels.mlp.triton_form import Operands

        stage, cut = self.stages[0], self.cut
        kernel, ops = bind(triton_cut.specialise_resident(stage.attrs, cut)), Operands.of(stage, cut, device)
        exchange = torch.zeros(cut.exchange_words, dtype=torch.int64).to(device)

        def arguments(requests: Tensor, replies: Tensor, control: Tensor) -> dict[str, Any]:
            return {
                "request_ptr": requests, "reply_ptr": replies, "control_ptr": control, "exchange_ptr": exchange,
                "idle_looks": 0, **ops.arguments(),
            }  # fmt: skip

        return PersistentLaunch(kernel, cut.programs, arguments, ops, [exchange])

    def line(self) -> Line:
        whole = super().line()
        note = f"{self.cut.programs} programs, each with its part of the outputs of every layer: {whole.reasons[0]}"
        return replace(whole, kernel="triton_resident_cut", reasons=(note,))


class ResidentConvolutions:
    """Stages of one moment, causal convolutions with their rings among them. form: a kernels.conv.triton_resident_form.Form."""

    programs, commands, states = 1, True, 0
    past: Tensor | None = None

    def __init__(self, stages: tuple[Stage, ...], form: Any) -> None:
        self.stages, self.form = stages, form
        self.inputs, self.outputs = form.inputs, form.widths[-1]

    def prepared(self, device: str) -> PersistentLaunch:
        from rtaccel.kernels._gpu.triton_launch import bind
        from rtaccel.kernels.conv.triton_resident import specialise
        from rtaccel.kernels.conv.triton_resident_form import Operands

        kernel, ops = bind(specialise(self.form)), Operands.of(self.form, device)

        def arguments(requests: Tensor, replies: Tensor, control: Tensor) -> dict[str, Any]:
            return {
                "request_ptr": requests, "reply_ptr": replies, "control_ptr": control, "words_ptr": ops.words,
                "numbers_ptr": ops.numbers, "sums_ptr": ops.sums, "rings_ptr": ops.rings, "idle_looks": 0,
            }  # fmt: skip

        return PersistentLaunch(kernel, 1, arguments, ops)  # it clears its rings itself

    def line(self) -> Line:
        layers = [o for o in self.form.operations if o.kind == "layer"]
        products = sum(o.taps * o.inputs * o.width for o in layers)
        rings = 4 * self.form.rings[-1]
        return Line(
            self.stages[0].name, f"conv {self.inputs}-{'-'.join(str(o.width) for o in layers)}", "triton_resident",
            4 * (self.inputs + self.outputs), 2 * products,
            (f"one program, its weights in registers, {rings} B of rings in device memory",),
        )  # fmt: skip


STEP = "Use mode='graph', scheme='w8a8' or 'w4a8' with calibration=, or a smaller model."


def network_of(stages: Sequence[Stage], streamed: bool) -> Network:
    """Of a group that was fused to these stages. streamed: whether states live from call to call.

    Raises UnsupportedProblem where they are neither a chain that fits, nor a stack, nor a stream of convolutions.
    """
    from rtaccel.kernels.conv import triton_resident_form
    from rtaccel.kernels.mlp import triton_cut_form, triton_resident

    what = ", ".join(f"{s.name} ({s.op})" for s in stages)
    kinds = [operator(s.op).persistent for s in stages]
    if streamed and Persistent.STREAM in kinds:
        form = triton_resident_form.form_of(stages)
        if isinstance(form, str):
            raise UnsupportedProblem(
                "persistent", what, f"a network that {form}", "Pass calibration=, or stream on the CPU."
            )
        return ResidentConvolutions(tuple(stages), form)
    if kinds == [Persistent.CHAIN]:
        reason, widths = triton_resident.unsupported(stages[0].attrs), stages[0].attrs["widths"]
        if reason is None:
            return ResidentChain(stages[0])
        cut = triton_cut_form.cut_of(stages[0].attrs)
        if isinstance(cut, str):
            expected = f"a smaller network: one program {reason}; several: each {cut}"
            raise UnsupportedProblem("persistent", f"mlp {widths}", expected, STEP)
        return ResidentCut(stages[0], cut)
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
