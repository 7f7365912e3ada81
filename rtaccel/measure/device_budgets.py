"""Budgets per device, and the yardstick that carries a budget from one machine to another.

    [budget."tone"]                        # on every machine
    p99_us = 500

    [device."EPYC 9B14"]                   # part of the name of the CPU or the GPU, as `rtaccel info` shows it
    yardstick_us = 27.9                    # python -m rtaccel.measure.device_budgets

    [device."EPYC 9B14".budget."tone"]     # on that machine, instead of the row above
    p99_us = 50

On a machine that the file does not name, latencies of the device with the nearest yardstick are multiplied by the ratio of
the yardsticks, and every result says so. The yardstick is a fixed piece of work on one core: a chain of multiplications,
sums over a first-level cache and a chase through the second level. It knows nothing of wide vectors, memory bandwidth,
threads and GPUs, so a scaled budget is a rough one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

from rtaccel.core.errors import FormatError
from rtaccel.measure.budget import Budget, budget_rows, read_toml
from rtaccel.measure.machine.environment import environment
from rtaccel.measure.numbers import is_finite, shown

FARTHEST = 4.0
"""A machine so many times as fast or slow is too different for a scaled budget."""

_TRIALS = 500


@dataclass(frozen=True)
class DeviceBudgets:
    """rows: name -> budget for this machine. device: the section of the file they come from, None for general rows only.

    scale: what latencies were multiplied by. said: a sentence about that, None where they are as written.
    scaled: names of the rows it is about.
    """

    rows: Mapping[str, Budget]
    device: str | None = None
    scale: float = 1.0
    said: str | None = None
    scaled: frozenset[str] = frozenset()


def yardstick_us() -> float:
    """Microseconds that the fixed piece of work takes when nothing disturbs it: the least of 500 trials, 20 ms."""
    from rtaccel._native import yardstick

    return float(min(yardstick() for _ in range(_TRIALS))) / 1e3


def budgets_here(
    path: str | PathLike[str], *, names: tuple[str, ...] | None = None, yardstick: float | None = None
) -> DeviceBudgets:
    """The budgets of a file that hold on this machine. names, yardstick: this machine's, measured where not given.

    Raises FormatError for a file as `load_budgets` does, for keys of a device that are unknown, and for a file with
    devices of which none is this one and none has a yardstick within a factor of four.
    """
    content = read_toml(path)
    general = budget_rows(content["budget"], str(path)) if "budget" in content else {}
    devices = content.get("device", {})
    if not general and not devices:
        budget_rows(None, str(path))
    rows = {name: _device_rows(path, name, section) for name, section in _sections(path, devices)}
    if not rows:
        return DeviceBudgets(general)
    names = _names() if names is None else names
    fitting = [device for device in rows if any(device.casefold() in name.casefold() for name in names)]
    if fitting:
        device = max(fitting, key=len)
        return DeviceBudgets({**general, **rows[device]}, device)
    here = yardstick_us() if yardstick is None else yardstick
    lengths = {device: devices[device]["yardstick_us"] for device in rows if "yardstick_us" in devices[device]}
    nearest = min(lengths, key=lambda d: abs(math.log(here / lengths[d])), default=None)
    if nearest is None or not 1 / FARTHEST <= here / lengths[nearest] <= FARTHEST:
        known = ", ".join(f"{d} ({lengths[d]:g} us)" if d in lengths else d for d in rows)
        raise FormatError(
            "budgets file",
            f"{path} for {known}; this is {' with '.join(names) or 'unknown'}, yardstick {here:.3g} us",
            "a section for this device, or one with a yardstick_us within a factor of four",
            "Add one: python -m rtaccel.measure.device_budgets prints its first lines.",
        )
    scale = here / lengths[nearest]
    said = (
        f"limits are those of {nearest} (yardstick {lengths[nearest]:g} us) times {scale:.3g} for this machine "
        f"({here:.3g} us)"
    )
    scaled = {name: budget.scaled(scale) for name, budget in rows[nearest].items()}
    return DeviceBudgets({**general, **scaled}, nearest, scale, said, frozenset(scaled))


def _sections(path: Any, devices: Any) -> list[tuple[str, dict[str, Any]]]:
    if not isinstance(devices, dict) or not all(isinstance(section, dict) for section in devices.values()):
        raise FormatError("budgets file", f"{path}: device", '[device."name"] with rows', "Name each device's table.")
    return list(devices.items())


def _device_rows(path: Any, device: str, section: dict[str, Any]) -> dict[str, Budget]:
    where = f'{path}, device "{device}"'
    unknown = [key for key in section if key not in ("yardstick_us", "budget")]
    if unknown:
        got = "unknown key " + ", ".join(map(repr, unknown))
        raise FormatError(where, got, "only yardstick_us and budget", "Correct the key.")
    length = section.get("yardstick_us", 1.0)
    if not is_finite(length) or length <= 0:
        raise FormatError(
            where, f"yardstick_us={shown(length)}", "a positive finite number", "Measure it on that machine."
        )
    return budget_rows(section.get("budget", {}), where)


def _names() -> tuple[str, ...]:
    record = environment()
    return tuple(str(record[key]) for key in ("cpu", "gpu") if record.get(key))


def main() -> None:
    """Prints the section of this machine for a budgets file."""
    names = _names()
    print(f'[device."{names[0] if names else "this machine"}"]\nyardstick_us = {yardstick_us():.3g}')


if __name__ == "__main__":
    main()
