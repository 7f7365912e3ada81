"""A chain of linear layers that stays on a GPU: by Triton's kernel on one multiprocessor, by the same on several, or by the one
in CUDA C++, whose weights are in registers and shared memory of one, or of a cluster. Which it is and why `explain` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.stage import Stage
from rtaccel.plan.explain import Line
from rtaccel.runtime.gpu.past.at_rest import AtRest
from rtaccel.runtime.gpu.persistent_choice import CUDA_CHAIN as CUDA
from rtaccel.runtime.gpu.persistent_choice import TRITON, allowed
from rtaccel.runtime.gpu.persistent_launch import PersistentLaunch, Rounding
from rtaccel.runtime.gpu.persistent_weights import Packed, WeightSets, same_numbers

if TYPE_CHECKING:
    from rtaccel.kernels._gpu.triton_launch import Launch


STEP = "Use mode='graph', scheme='w8a8' or 'w4a8' with calibration=, or a smaller model."


class PersistentChain:
    """An `mlp` stage, by Triton's kernel on one multiprocessor. why: for `explain`."""

    why: tuple[str, ...] = ()
    kernel = TRITON
    programs, commands, states = 1, True, 0
    past: Tensor | None = None
    at_rest: AtRest | None = None
    sets: WeightSets | None = None
    second = 0
    factors: Tensor | None = None
    ends_by_message = False

    @property
    def rounding(self) -> Rounding | None:
        return None

    def __init__(self, stage: Stage) -> None:
        self.stages: tuple[Stage, ...] = (stage,)
        self.inputs, self.outputs = stage.attrs["widths"][0], stage.attrs["widths"][-1]

    def packed(self, stages: Sequence[Stage]) -> Packed:
        own, found = self.operands(self.stages[0]), self.operands(stages[0])
        same_numbers(found.scalars, own.scalars)
        return found.weights

    def operands(self, stage: Stage) -> Any:
        """Of such a stage, in host memory."""
        from rtaccel.kernels.mlp.triton.config import KernelConfig, Operands

        return Operands.of(stage, KernelConfig.of(stage.attrs), "cpu")

    def prepared(self, device: str) -> PersistentLaunch:
        from rtaccel.kernels.mlp.triton.persistent import specialize

        return self._launch(specialize(self.stages[0].attrs), device)

    def _launch(self, specialisation: Any, device: str, exchange: Tensor | None = None) -> PersistentLaunch:
        from rtaccel.kernels._gpu.triton_launch import bind

        return self._bound(bind(specialisation), device, exchange)

    def _bound(self, kernel: Launch, device: str, exchange: Tensor | None = None) -> PersistentLaunch:
        ops = self.operands(self.stages[0])
        scalars, sets = ops.scalars, WeightSets(ops.weights, device)
        shared = {} if exchange is None else {"exchange_ptr": exchange}
        self.sets = sets

        def arguments(requests: Tensor, replies: Tensor, control: Tensor) -> dict[str, Any]:
            return {
                "request_ptr": requests, "reply_ptr": replies, "control_ptr": control, **sets.tensors, **shared, **scalars,
                "idle_looks": 0, "second": self.second,
            }  # fmt: skip

        return PersistentLaunch(kernel, self.programs, arguments, sets, [] if exchange is None else [exchange])

    def where(self) -> str:
        return "in registers"

    def line(self) -> Line:
        attrs = self.stages[0].attrs
        weights = sum(n * k for k, n in pairwise(attrs["widths"]))
        kind = f"int4 weights in groups of {attrs['group_size']}" if "group_size" in attrs else "int8 weights"
        return Line(
            self.stages[0].name, f"mlp {'-'.join(map(str, attrs['widths']))}", self.kernel,
            4 * (self.inputs + self.outputs), 2 * weights, (f"its {kind} are {self.where()}: a call moves x and y", *self.why),
        )  # fmt: skip


class PersistentPartition(PersistentChain):
    """An `mlp` stage whose weights are shared by several multiprocessors. cut: a kernels.mlp.triton_partition_config.Cut."""

    def __init__(self, stage: Stage, partition: Any) -> None:
        super().__init__(stage)
        self.partition, self.programs = partition, partition.programs

    def operands(self, stage: Stage) -> Any:
        from rtaccel.kernels.mlp.triton.config import Operands

        return Operands.of(stage, self.partition, "cpu")

    def prepared(self, device: str) -> PersistentLaunch:
        from rtaccel.kernels.mlp.triton.partition import specialize_persistent

        exchange = torch.zeros(self.partition.exchange_words, dtype=torch.int64).to(device)
        return self._launch(specialize_persistent(self.stages[0].attrs, self.partition), device, exchange)

    def line(self) -> Line:
        whole = super().line()
        note = (
            f"{self.partition.programs} programs, each with its part of the outputs of every layer: {whole.reasons[0]}"
        )
        return replace(whole, kernel="triton_persistent_partition", reasons=(note, *self.why))


class CudaChain(PersistentChain):
    """The same by the kernel in CUDA C++, on one multiprocessor or a cluster. config: a kernels.mlp.cuda.config.KernelConfig."""

    kernel = CUDA

    def __init__(self, stage: Stage, config: Any, why: str) -> None:
        super().__init__(stage)
        self.config, self.why, self.programs = config, (why,), config.parts

    def operands(self, stage: Stage) -> Any:
        from rtaccel.kernels.mlp.cuda.kernel import Operands

        return Operands.of(stage, self.config)

    def prepared(self, device: str) -> PersistentLaunch:
        from rtaccel.kernels._gpu.cuda_launch import bind
        from rtaccel.kernels.mlp.cuda.kernel import kernel_of

        return self._bound(bind(kernel_of(self.config)), device)

    @property
    def rounding(self) -> Rounding | None:
        from rtaccel.kernels.mlp import contract

        low = contract.lower(self.stages[0])
        return Rounding(float(low["inv_scale"]), int(low["zero_point"]))

    def where(self) -> str:
        return f"on the chip ({self.config.where()})"


def chain_network(stage: Stage) -> PersistentChain:
    """The network for a chain: by the kernel in CUDA C++ where it is computed to answer sooner, and NVRTC or the store has it.

    Raises UnsupportedProblem where no kernel holds it.
    """
    triton, too_large = _triton(stage)
    cuda, reason = _cuda(stage, triton) if allowed(CUDA) else (None, "")
    if cuda is not None:
        return cuda
    if triton is None or not allowed(TRITON):
        raise UnsupportedProblem(
            "persistent", f"mlp {stage.attrs['widths']}", f"a smaller network: {too_large}; {CUDA} {reason}", STEP
        )
    if reason:
        triton.why = (f"not {CUDA}, which {reason}",)
    return triton


def _triton(stage: Stage) -> tuple[PersistentChain | None, str]:
    """The network on one multiprocessor, else on several, or why there is none."""
    from rtaccel.kernels.mlp.triton import partition_config
    from rtaccel.kernels.mlp.triton import persistent as triton_persistent

    reason = triton_persistent.unsupported(stage.attrs)
    if reason is None:
        return PersistentChain(stage), ""
    partition = partition_config.partition_of(stage.attrs)
    if isinstance(partition, str):
        return None, f"one program {reason}; several: each {partition}"
    return PersistentPartition(stage, partition), ""


def _cuda(stage: Stage, triton: PersistentChain | None) -> tuple[CudaChain | None, str]:
    """The network by the kernel in CUDA C++, or what speaks against it."""
    from rtaccel.kernels._gpu import cuda_launch, triton_launch
    from rtaccel.kernels._persistent.card import card
    from rtaccel.kernels.mlp.cuda.config import cluster_of, config_of, triton_clocks
    from rtaccel.kernels.mlp.cuda.kernel import kernel_of

    config = config_of(stage.attrs, card())
    if isinstance(config, str):
        cluster = cluster_of(stage.attrs, card())
        if isinstance(cluster, str):
            return None, f"{config}; as a cluster it {cluster}"
        config = cluster
    own, instead = config.clocks(), f"{TRITON}, which does not hold it"
    if triton is not None:
        other = triton_clocks(config.widths, config.group, triton.programs)
        if other <= own and allowed(TRITON):
            return None, f"would answer later: {own:,.0f} cycles, computed, for {other:,.0f}"
        instead = f"{TRITON}, which answers later: {other:,.0f} cycles, computed, for {own:,.0f}"
    unavailable = cuda_launch.unavailable(kernel_of(config))
    if unavailable is not None:
        return None, f"cannot be had: {unavailable}"
    # Where kernels are recorded both forms are wanted, as far as there are two.
    wanted = triton is None and triton_launch.is_recording()
    if not cuda_launch.has_room(kernel_of(config)) and not wanted:
        return None, f"would be a cluster of {config.parts} programs, for which this device has no room"
    return CudaChain(stage, config, f"not {instead}"), ""
