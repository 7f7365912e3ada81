"""What a machine can do, as a file that another machine plans with."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.core.process import whole_file
from rtaccel.serve.frames import WIRES

KIND = "rtaccel machine profile"
VERSION = 1
MAX_BYTES = 16 << 20
"""Of a file."""


@dataclass(frozen=True)
class MachineProfile:
    """Times of one machine: probes that every machine is measured by, and stages of the models that it was shown.

    A stage takes there what it takes here, times how much slower that machine runs probes of the same kind (the same operator
    on the same format of weights), between those that take a similar time. A stage that was measured there takes what it took.

    machine: the processor, its instruction set and the version of rtaccel, for people.
    probes: name -> (kind, microseconds). stages: what a stage's time depends on -> microseconds.
    call_us: of a call beside its stages. frame_us: of each wire, (of an empty frame, of each number).
    factor: all times are multiplied by it.

    Example:
        >>> import rtaccel as rt
        >>> cloud = rt.MachineProfile({"cpu": "a test"}, {"a": ("linear float32", 2.0)}, {}, 1.0, {})
        >>> cloud.scaled(0.5).us("linear float32", "", 10.0, cloud)
        5.0
    """

    machine: Mapping[str, str]
    probes: Mapping[str, tuple[str, float]]
    stages: Mapping[str, float]
    call_us: float
    frame_us: Mapping[str, tuple[float, float]]
    factor: float = field(default=1.0)

    @classmethod
    def here(cls, model: Any = None, inputs: tuple[Any, ...] = (), calls: int = 20) -> MachineProfile:
        """Measures this machine, some seconds long.

        model: a compiled model whose stages are measured too. inputs: of one call of it, float32 [batch, ...].
        calls: of each probe and stage, in each of twelve rounds.

        Raises UnsupportedProblem for a model that is not one native plan.
        """
        from rtaccel.search.cost_table import machine
        from rtaccel.serve.split import probes

        measured = probes.measured_stages(calls)
        made = cls(machine(), measured, {}, probes.call_us(), probes.frame_us())
        return made if model is None else made.with_model(model, inputs, calls)

    def with_model(self, model: Any, inputs: tuple[Any, ...], calls: int = 20) -> MachineProfile:
        """The same with the times of a compiled model's stages, measured here. inputs: of one call, float32 [batch, ...]."""
        from rtaccel.serve.split import probes
        from rtaccel.serve.split.halves import whole_group

        whole_group("MachineProfile", model)
        us: dict[str, list[float]] = {}
        for stage, one in zip(probes.stages_of(model), probes.stages_of_a_call_us(model, inputs, calls), strict=True):
            us.setdefault(probes.key_of(stage, model._options.batch_size), []).append(one / self.factor)
        return replace(self, stages={**self.stages, **{key: float(np.mean(v)) for key, v in us.items()}})

    def scaled(self, factor: float) -> MachineProfile:
        """A machine that takes `factor` times as long for everything: 0.25 is four times as fast. Raises FormatError for a
        factor that is not a positive finite number."""
        return replace(self, factor=self.factor * _number("scaled", "factor", factor, positive=True))

    def us(self, kind: str, key: str, here_us: float, here: MachineProfile) -> float:
        """Of a stage that takes `here_us` on the machine of `here`."""
        if key in self.stages:
            return self.stages[key] * self.factor
        return here_us / here.factor * self._ratio(kind, here_us / here.factor, here) * self.factor

    def _ratio(self, kind: str, us: float, here: MachineProfile) -> float:
        """How much slower this machine is, both without their factors."""
        both = [
            (other[0], other[1], mine[1])
            for name, mine in self.probes.items()
            if (other := here.probes.get(name)) is not None and other[1] > 0 and mine[1] > 0
        ]
        if not both:
            raise UnsupportedProblem(
                "MachineProfile", "profiles without a probe in common", "two that were measured by the same version",
                "Measure both anew: rtaccel profile --machine-profile FILE.",
            )  # fmt: skip
        op = kind.split(" ")[0]
        for wanted in (lambda k: k == kind, lambda k: k.split(" ")[0] == op, lambda k: True):
            points = sorted((h, math.log(m / h)) for k, h, m in both if wanted(k))
            if not points:
                continue
            if wanted("no such kind"):  # other operators: how much slower it is on the whole
                return math.exp(float(np.median([r for _, r in points])))
            at = math.log(max(us, 1e-9))
            return math.exp(float(np.interp(at, [math.log(h) for h, _ in points], [r for _, r in points])))
        raise AssertionError("the last kind takes every probe")

    def frame(self, wire: str, numbers: int) -> float:
        """Microseconds of a frame at one end. numbers: in its tensors."""
        fixed, each = self.frame_us.get(wire, (0.0, 0.0))
        return (fixed + each * numbers) * self.factor

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the file, whole or not at all. Raises FormatError where it cannot be written."""
        return whole_file.write("machine profile", path, json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "kind": KIND, "version": VERSION, "machine": dict(self.machine), "factor": self.factor,
            "call_us": self.call_us, "frame_us": {k: list(v) for k, v in self.frame_us.items()},
            "probes": {k: list(v) for k, v in self.probes.items()}, "stages": dict(self.stages),
        }  # fmt: skip

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> MachineProfile:
        """Reads a file. Raises FormatError for one that is no profile, and OSError where there is none."""
        file = Path(path)
        if file.stat().st_size > MAX_BYTES:
            raise FormatError("MachineProfile", f"{file} of {file.stat().st_size} bytes", f"at most {MAX_BYTES}",
                              "Pass a file that save() wrote.")  # fmt: skip
        try:
            content = json.loads(file.read_bytes())
        except ValueError as error:
            raise FormatError("MachineProfile", f"{file}: {error}", "JSON", "Pass a file that save() wrote.") from None
        return cls.from_dict(content)

    @classmethod
    def from_dict(cls, content: Any) -> MachineProfile:
        """From JSON values. Raises FormatError for what is no profile, or holds a time that is not a finite number."""
        op = "MachineProfile"
        if not isinstance(content, dict) or (content.get("kind"), content.get("version")) != (KIND, VERSION):
            got = (
                type(content).__name__
                if not isinstance(content, dict)
                else f"{content.get('kind')!r}, version {content.get('version')!r}"
            )
            raise FormatError(op, got, f"{KIND!r}, version {VERSION}", "Measure it anew.")
        try:
            probes = {str(k): (str(kind), _number(op, k, us)) for k, (kind, us) in content["probes"].items()}
            stages = {str(k): _number(op, k, us) for k, us in content["stages"].items()}
            frames = {
                str(k): (_number(op, k, a), _number(op, k, b))
                for k, (a, b) in content["frame_us"].items()
                if k in WIRES
            }
            machine = {str(k): str(v) for k, v in content["machine"].items()}
            factor = _number(op, "factor", content["factor"], positive=True)
            return cls(machine, probes, stages, _number(op, "call_us", content["call_us"]), frames, factor)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(op, f"a profile with {error!r}", "all parts of one", "Measure it anew.") from None

    def __str__(self) -> str:
        name = self.machine.get("cpu", "a machine")
        times = "" if self.factor == 1 else f", times {self.factor:g}"
        return f"{name} ({self.machine.get('isa', '?')}), {len(self.probes)} probes, {len(self.stages)} stages{times}"


def _number(op: str, name: object, value: Any, positive: bool = False) -> float:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not good or value < 0 or (positive and value == 0):
        kind = "a positive finite number" if positive else "a finite number, 0 or above"
        raise FormatError(op, f"{name}={value!r}", kind, "Measure the profile anew, or mend it.")
    return float(value)
