"""The interface of a backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Backend:
    """name: as in `backend=`. rank: the larger is preferred on a device. devices: torch device types it runs on.

    unavailable: None, or the reason why it cannot run here. remedy: the next step then.
    facts: what it found, for `rtaccel info` and for the environment record of a measurement.
    """

    name: str
    rank: int
    devices: tuple[str, ...]
    unavailable: Callable[[], str | None]
    remedy: str
    facts: Callable[[], Mapping[str, object]]
