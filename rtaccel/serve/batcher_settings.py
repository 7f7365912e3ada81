"""What a batcher is made with, checked, in the units of the native side."""

from __future__ import annotations

from typing import Any

from rtaccel.core.errors import FormatError
from rtaccel.serve.workers import native_of

LATE = {"answer": 0, "drop": 1}


def settings_of(
    there: int,
    deadline_us: Any,
    on_result: Any,
    late: Any,
    streams: Any,
    max_batch: Any,
    tickets: Any,
    behind: Any,
    spin_us: Any,
    cpu: Any,
    workers: Any,
) -> dict[str, Any]:
    """Arguments of `StreamBatcher` as those of rta_batcher.h. there: streams of the model. Raises FormatError for settings that
    there are not."""
    if late not in LATE:
        raise FormatError("StreamBatcher", f"late={late!r}", "'answer' or 'drop'", "Pass one of them.")
    if on_result is not None and not callable(on_result):
        raise FormatError("StreamBatcher", f"on_result={on_result!r}", "a function, or None", "Pass a function.")
    if on_result is not None and tickets is not None:
        raise FormatError("StreamBatcher", "on_result and tickets", "one of them", "Leave tickets out.")
    count = _streams_of(streams, there)
    places = 4 * count if tickets is None else _whole("tickets", tickets, 1, 2**31 - 2)
    settings: dict[str, Any] = {
        "deadline_ns": _ns("deadline_us", deadline_us, 1),
        "streams": count,
        "max_batch": count if max_batch is None else _whole("max_batch", max_batch, 1, count),
        "tickets": 0 if on_result else places,
        "results": _whole("behind", behind, 1, 4096),
        "spin_ns": _ns("spin_us", spin_us, 0),
        "late": LATE[late],
        "cpu": -1 if cpu is None else _whole("cpu", cpu, 0, 4095),
        "manual": 0,
    }
    if workers is not None:
        settings["workers"] = native_of(workers, cpu)
    return settings


def _whole(name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise FormatError("StreamBatcher", f"{name}={value!r}", f"a whole number, {low} to {high}", "Pass one.")
    return value


def _streams_of(given: Any, there: int) -> int:
    if given is None:
        return there
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= there:
        raise FormatError(
            "StreamBatcher", f"streams={given!r}", f"1 to the {there} that the model has",
            "Make it with as many: rt.stream(model, an example step of that batch size).",
        )  # fmt: skip
    return given


def _ns(name: str, us: Any, low: int) -> int:
    ns = -1.0 if isinstance(us, bool) or not isinstance(us, (int, float)) else us * 1e3
    if not low <= ns <= 3.6e12:
        raise FormatError("StreamBatcher", f"{name}={us!r}", "microseconds, up to an hour", "Pass a number.")
    return round(ns)
