"""Real time around a model: the freshest value, a loop with a period, what the machine lacks for it.

`rt.Latest` and `rt.Loop` are public at the top. Here are the others: `check()`, `CStep`, `Simulation`, `LoopStats`,
`tensor_of`, `record` and `replay`, and the bridges and the Prometheus collector in modules of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtaccel.core.lazy import attributes

_HOME = {
    "CStep": "rtaccel.realtime.steps",
    "HostFinding": "rtaccel.realtime.host",
    "Latest": "rtaccel.realtime.latest",
    "Loop": "rtaccel.realtime.loop",
    "LoopStats": "rtaccel.realtime.stats",
    "Recording": "rtaccel.realtime.record",
    "Recordings": "rtaccel.realtime.record_many",
    "Simulation": "rtaccel.realtime.simulation",
    "check": "rtaccel.realtime.host",
    "tensor_of": "rtaccel.realtime.latest",
}

__all__ = [
    "CStep",
    "HostFinding",
    "Latest",
    "Loop",
    "LoopStats",
    "Recording",
    "Recordings",
    "Simulation",
    "check",
    "tensor_of",
]

if TYPE_CHECKING:
    from rtaccel.realtime.host import HostFinding, check
    from rtaccel.realtime.latest import Latest, tensor_of
    from rtaccel.realtime.loop import Loop
    from rtaccel.realtime.record import Recording
    from rtaccel.realtime.record_many import Recordings
    from rtaccel.realtime.simulation import Simulation
    from rtaccel.realtime.stats import LoopStats
    from rtaccel.realtime.steps import CStep


if not TYPE_CHECKING:
    __getattr__ = attributes(__name__, _HOME)
