"""What one door said of one network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.zoo.survey import said
from rtaccel.core.errors import RtaccelError

STATUSES = ("ok", "refused", "wrong", "failed", "crashed", "timed out", "left out")
"""Held; an error of rtaccel's own types, by `kind`; a result that is not what the docs promise; another error; the process ended;
the limit of time; nothing to try, as the text says."""

FAULTS = ("wrong", "failed", "crashed", "timed out")


class Wrong(Exception):
    """A result that is not what the docs promise; the text says how."""


class NothingToTry(Exception):
    """This network has nothing for this door; the text says why."""


@dataclass(frozen=True)
class Outcome:
    """kind: type of the error, of what was refused or failed. text: the error, or what the door notes. error: of a door that
    compares with float64, rms of the difference over rms of the result."""

    status: str
    kind: str = ""
    text: str = ""
    error: float | None = None

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value not in (None, "")}


@dataclass(frozen=True)
class Doors:
    """One network. status: "through" where it was compiled; else as in the survey, with the reason. by_door: door -> outcome."""

    name: str
    domain: str
    package: str
    status: str
    version: str | None = None
    reason: str = ""
    form: str = ""
    by_door: dict[str, Outcome] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        kept = {k: v for k, v in asdict(self).items() if v not in (None, "", {}) and k != "by_door"}
        return kept | {"by_door": {door: found.as_json() for door, found in self.by_door.items()}}

    @staticmethod
    def from_json(stored: dict[str, Any]) -> Doors:
        by_door = {door: Outcome(**found) for door, found in stored.get("by_door", {}).items()}
        return Doors(**{**stored, "by_door": by_door})


@dataclass(frozen=True)
class Note:
    """What a door that held may give back."""

    text: str = ""
    error: float | None = None


def outcome(door: Callable[[], Note | None]) -> Outcome:
    """Whatever goes wrong in a door becomes its outcome."""
    try:
        note = door() or Note()
    except NothingToTry as reason:
        return Outcome("left out", text=str(reason))
    except Wrong as error:
        return Outcome("wrong", text=str(error)[:400])
    except RtaccelError as error:
        return Outcome("refused", type(error).__name__, said(error).partition(": ")[2])
    except Exception as error:  # an error of no type of ours is a defect, and is reported as one
        return Outcome("failed", type(error).__name__, said(error).partition(": ")[2])
    return Outcome("ok", text=note.text, error=note.error)
