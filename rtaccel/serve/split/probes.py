"""What a machine is measured by: stages of small networks, calls, frames. The same ones everywhere, so that machines compare."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from rtaccel.convert.passes.program import SubgraphStep
from rtaccel.core.stage import Problem, Stage
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.compiler import compile
from rtaccel.runtime.inspection.profile import profile_stages
from rtaccel.serve.frames import WIRES, Reader, Writer

ROUNDS = 12
CALLS = 20
FRAME_NUMBERS = (64, 16384)


class _SideBySide(nn.Module):
    """Networks that share nothing but a plan: one export for all of them."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(part(x) for part, x in zip(self.parts, inputs))


class _Outputs(nn.Module):
    """What a recurrent layer gives for every time step."""

    def __init__(self, kind: type, width: int) -> None:
        super().__init__()
        self.cell = kind(width, width, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.cell(x)[0]
        return found


def _mlp(*widths: int) -> nn.Module:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers)


def _convolutions(a: int, b: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.Conv2d(b, b, 1), nn.Tanh(), nn.MaxPool2d(2))


def networks() -> dict[str, tuple[nn.Module, tuple[torch.Tensor, ...]]]:
    """Name -> (module, example)."""
    return {
        "rows": (
            _SideBySide(_mlp(64, 64, 64), _mlp(256, 256, 64), _mlp(1024, 768, 256)),
            (torch.zeros(1, 64), torch.zeros(1, 256), torch.zeros(1, 1024)),
        ),
        "images": (
            _SideBySide(_convolutions(8, 16), _convolutions(16, 32)),
            (torch.zeros(1, 8, 16, 16), torch.zeros(1, 16, 32, 32)),
        ),
        "recurrent": (
            _SideBySide(_Outputs(nn.GRU, 32), _Outputs(nn.LSTM, 64)),
            (torch.zeros(1, 16, 32), torch.zeros(1, 16, 64)),
        ),
    }


REST_S = 5e-3
"""Between two requests, as a remote that is asked now and then has it."""


def kind_of(stage: Stage) -> str:
    """What stages are alike in speed on two machines: the operator, and the format of its weights or the dtype it reads."""
    dtype = stage.inputs[0].dtype if stage.weight_format is None else stage.weight_format.dtype
    return f"{stage.op} {dtype}"


def key_of(stage: Stage, rows: int) -> str:
    """What a stage's time depends on, whatever kernel a machine has for it."""
    return f"{Problem.of(stage, rows)} {stage.weight_format}"


def stages_of(fast: CompiledModel) -> tuple[Stage, ...]:
    """Of a model that is one native plan."""
    step = fast._program.steps[0]
    assert isinstance(step, SubgraphStep)
    return step.group.stages


def stage_us(fast: CompiledModel, inputs: tuple[Any, ...], calls: int = CALLS, rounds: int = ROUNDS) -> list[float]:
    """Of each stage of `stages_of`, where it stands: the least of the rounds' medians, less one reading of the clock. A copy that
    the plan does not make, because its reader takes the planes as they lie (rtaccel.plan.planes), takes no time."""
    best: list[float] = []
    for _ in range(rounds):
        profile = profile_stages(fast, inputs, calls)
        us = [max(0.0, stage.us - profile.reading_ns / 1e3) for stage in profile.stages[1:-1]]
        best = [min(a, b) for a, b in zip(best, us, strict=True)] if best else us
    return _by_stage(stages_of(fast), [choice.stage for choice in fast._executor.steps[0].choices], best)


def stages_of_a_call_us(fast: CompiledModel, inputs: tuple[Any, ...], calls: int = CALLS) -> list[float]:
    """The same, in a call of all of them. The least times of stages never meet in one call: where they add up to less than the
    least call takes, each is longer by that share."""
    us = stage_us(fast, inputs, calls)
    return raised(us, least_us(fast.bind(*inputs, out=fast(*inputs))))


def raised(us: Sequence[float], whole_us: float) -> list[float]:
    """Times that add up to a whole, if they were less."""
    share = max(1.0, whole_us / max(sum(us), 1e-3))
    return [one * share for one in us]


def rested_us(fast: CompiledModel, inputs: tuple[Any, ...], calls: int = 15) -> float:
    """What a call takes longer where its thread slept before it, in microseconds: other work had the caches meanwhile, and the
    core went to sleep. The lower quartile of calls after a sleep, less that of calls one after the other."""
    given = fast(*inputs)
    step = fast.bind(*inputs, out=given)
    taken: dict[float, list[float]] = {0.0: [], REST_S: []}
    for _ in range(calls):
        for rest, found in taken.items():
            step()
            if rest:
                time.sleep(rest)
            start = time.perf_counter()
            step()
            found.append((time.perf_counter() - start) * 1e6)
    awake, rested = (sorted(found)[calls // 4] for found in taken.values())
    return max(0.0, rested - awake)


def _by_stage(stages: Sequence[Stage], planned: Sequence[Stage], us: Sequence[float]) -> list[float]:
    """The times of a plan's stages for the stages that it was made of: these in their order, some of them left out."""
    left = list(zip(planned, us, strict=True))
    found = []
    for i, stage in enumerate(stages):
        mine = 0.0
        # Of those after it as many may be left out as there are more of them than of the plan's.
        spare = len(stages) - i - len(left)
        if left and ((left[0][0].op, left[0][0].name) == (stage.op, stage.name) or spare <= 0):
            mine = left.pop(0)[1]
        found.append(mine)
    return found


def measured_stages(calls: int = CALLS) -> dict[str, tuple[str, float]]:
    """Name of a probe -> (its kind, microseconds)."""
    found: dict[str, tuple[str, float]] = {}
    generator = torch.Generator().manual_seed(7)
    for name, (module, xs) in networks().items():
        given = tuple(torch.randn(x.shape, generator=generator) for x in xs)
        for scheme in ("float32", "w8a8"):
            fast = compile(module.eval(), xs, scheme, calibration=[given] if scheme == "w8a8" else None, verify=False)
            assert isinstance(fast, CompiledModel)
            for i, (stage, us) in enumerate(zip(stages_of(fast), stage_us(fast, given, calls), strict=True)):
                found[f"{name} {scheme} {i}"] = (kind_of(stage), us)
    return found


def call_us() -> float:
    """What a call from Python costs beside its stages."""
    fast = compile(nn.Linear(4, 4).eval(), torch.zeros(1, 4), verify=False)
    x = torch.zeros(1, 4)
    return least_us(lambda: fast(x))


def frame_us() -> dict[str, tuple[float, float]]:
    """Of each wire: microseconds of a frame at one end, as (of an empty one, of each number in it)."""
    model = bytes(16)
    found: dict[str, tuple[float, float]] = {}
    for name in WIRES:
        points = []
        for numbers in FRAME_NUMBERS:
            x = np.random.default_rng(1).normal(size=(1, numbers)).astype(np.float32)
            writer, reader = Writer([x], model, name), Reader([x.copy()], model, name)
            frame, count = np.zeros(writer.bytes, np.uint8), iter(range(1, 10**9))

            def both(writer: Writer = writer, reader: Reader = reader, frame: Any = frame, count: Any = count) -> None:
                writer.write(frame, next(count))
                reader.read(frame)

            points.append(least_us(both) / 2)
        slope = max(0.0, (points[1] - points[0]) / (FRAME_NUMBERS[1] - FRAME_NUMBERS[0]))
        found[name] = (max(0.01, points[0] - slope * FRAME_NUMBERS[0]), slope)
    return found


def least_us(call: Callable[[], object], rounds: int = 30, burst_us: float = 500.0) -> float:
    """Microseconds of a call from Python: the least of the rounds' means."""
    call()
    start = time.perf_counter()
    for _ in range(3):
        call()
    count = max(3, int(burst_us * 1e-6 / max((time.perf_counter() - start) / 3, 1e-7)))
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(count):
            call()
        best = min(best, (time.perf_counter() - start) / count)
    return best * 1e6
