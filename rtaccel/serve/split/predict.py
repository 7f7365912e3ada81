"""What every cut would take: the rows of the front, before errors are known."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from rtaccel.runtime.compiled import CompiledModel
from rtaccel.serve.split import passage, probes
from rtaccel.serve.split.early import Exits
from rtaccel.serve.split.front import Row
from rtaccel.serve.split.halves import Crossing, whole_group
from rtaccel.serve.split.link import Link
from rtaccel.serve.split.machine_profile import MachineProfile

Side = str | MachineProfile


@dataclass(frozen=True)
class Leaving:
    """Early exits as they were measured. left: of each call the test behind which its last row left; as many as there are tests
    where a row did not. asking_us: of each test. part_us: what a part of the edge takes beside its call."""

    exits: Exits
    left: tuple[int, ...]
    asking_us: tuple[float, ...]
    part_us: float = 0.0

    def share(self, tests: Sequence[int]) -> float:
        """Of calls that end at one of these tests."""
        return sum(left in tests for left in self.left) / len(self.left)


@dataclass(frozen=True)
class EdgeTimes:
    """ends: (microseconds from the beginning, share of calls) of each place where calls end on the edge. whole_us: of those that
    go on."""

    ends: tuple[tuple[float, float], ...]
    whole_us: float

    @property
    def exits(self) -> float:
        return sum(share for _, share in self.ends)

    @property
    def ended_us(self) -> float:
        """What calls that end on the edge add to the mean."""
        return sum(us * share for us, share in self.ends)

    @property
    def mean_us(self) -> float:
        return self.ended_us + (1.0 - self.exits) * self.whole_us

    def within(self, share: float) -> float | None:
        """What so large a share of the calls takes at most, where that many end on the edge."""
        seen = 0.0
        for us, here in self.ends:
            seen += here
            if seen >= share:
                return us
        return None


def rows(
    fast: CompiledModel,
    cuts: Sequence[Crossing],
    lead: tuple[int, ...],
    link: Link,
    sides: tuple[tuple[Side, list[float]], tuple[Side, list[float]]],
    wires: Sequence[str],
    private: bool,
    leaving: Leaving | None,
) -> list[Row]:
    """A row for every cut and wire. sides: edge and cloud, each with what each stage takes on this machine in its place."""
    group, stages = whole_group("split", fast), probes.stages_of(fast)
    times = [_times(fast, here_us, side) for side, here_us in sides]
    edge, cloud = (_overhead(side) for side, _ in sides)
    weights = [sum(t.numel() * t.element_size() for t in stage.tensors.values()) for stage in stages]
    found = []
    for cut in cuts:
        at = cut.at
        down = [p for p in group.outputs if p.value.name not in cut.kept]
        own = _edge_times(times[0], at, edge, leaving)
        cloud_us = sum(times[1][at:]) + (cloud.call_us * cloud.factor if at < len(stages) else 0.0)
        shared: dict[str, Any] = {
            "at": at, "after": stages[at - 1].name if at else "", "edge_us": own.mean_us, "cloud_us": cloud_us,
            "edge_bytes": sum(weights[:at]), "exits": own.exits,
        }  # fmt: skip
        if at == len(stages):
            most = own.within(0.99)
            found.append(
                Row(
                    **shared, scheme="none", us=own.mean_us, p99_us=own.whole_us if most is None else most,
                    wire_bytes=0, answer_bytes=0, link_us=0.0, tensors=0,
                )
            )  # fmt: skip
            continue
        floats = any(p.value.dtype == "float32" for p in cut.ports)
        why = passage.refusal(cut.ports, lead) or passage.refusal(down, lead)
        if private and cut.raw:
            why = f"sends an input ({', '.join(cut.raw)})"
        for wire in wires if floats else wires[:1]:
            ends = passage.numbers(cut.ports, lead), passage.numbers(down, lead)
            frames = sum(side.frame(wire, ends[0]) + side.frame("float32", ends[1]) for side in (edge, cloud))
            up_bytes = 0 if why else passage.frame_bytes(cut.ports, lead, wire)
            down_bytes = 0 if why else passage.frame_bytes(down, lead, "float32")
            largest = max(up_bytes, down_bytes)
            large = link.most_bytes is not None and largest > link.most_bytes
            reason = why or (f"a frame of {largest} bytes over {link.most_bytes}" if large else "")
            link_us = frames + link.us(up_bytes, down_bytes)
            us, p99_us = _over_link(own, link_us + cloud_us, link, up_bytes, down_bytes)
            found.append(
                Row(
                    **shared, scheme=wire, link_us=link_us, wire_bytes=up_bytes, answer_bytes=down_bytes, us=us,
                    p99_us=p99_us, tensors=len(cut.ports), raw=bool(cut.raw), why_not=reason,
                    sent_bytes=(1.0 - own.exits) * up_bytes,
                )
            )  # fmt: skip
    return found


def _edge_times(times: Sequence[float], at: int, edge: MachineProfile, leaving: Leaving | None) -> EdgeTimes:
    """The edge goes in parts where tests can be asked on it, each a call of its own."""
    call_us = edge.call_us * edge.factor
    if leaving is None or not leaving.exits.at_edge(at):
        return EdgeTimes((), sum(times[:at]) + (call_us if at else 0.0))
    exits, us, ends = leaving.exits, 0.0, []
    for begin, end in itertools.pairwise((0, *exits.stops(at))):
        asked = exits.between(begin, end)
        beside = leaving.part_us + sum(leaving.asking_us[i] for i in asked)
        us += sum(times[begin:end]) + call_us + edge.factor * beside
        ends.append((us, leaving.share(asked)))
    return EdgeTimes(tuple(ends), us)


def _over_link(own: EdgeTimes, rest_us: float, link: Link, up_bytes: int, down_bytes: int) -> tuple[float, float]:
    """(mean, p99) of a call; losses concern those alone that are sent."""
    whole, sent = own.whole_us + rest_us, 1.0 - own.exits
    us = own.ended_us + sent * link.expected_us(whole, up_bytes, down_bytes)
    most = own.within(0.99)
    if most is None:
        most = link.percentile_us(1.0 - 0.01 / sent, whole, up_bytes, down_bytes)
    return us, most


@cache
def _here() -> MachineProfile:
    return MachineProfile.here()


def _times(fast: CompiledModel, here_us: list[float], side: Side) -> list[float]:
    """Microseconds of each stage on one side. The probes of this machine are measured once, where they are needed."""
    if isinstance(side, str):
        return here_us
    found = []
    for stage, us in zip(probes.stages_of(fast), here_us):
        key = probes.key_of(stage, fast._options.batch_size)
        known = key in side.stages or not side.probes
        found.append(side.us(probes.kind_of(stage), key, us, side if known else _reference(side)))
    return found


def _reference(side: MachineProfile) -> MachineProfile:
    """This machine, to compare another with; a profile of this very machine is its own."""
    from rtaccel.search.cost_table import machine

    return _here() if dict(side.machine) != machine() else MachineProfile(**{**vars(side), "factor": 1.0})


@cache
def _here_overhead() -> MachineProfile:
    return MachineProfile({}, {}, {}, probes.call_us(), probes.frame_us())


def _overhead(side: Side) -> MachineProfile:
    """Of calls and frames, which need no probes."""
    return _here_overhead() if isinstance(side, str) else side
