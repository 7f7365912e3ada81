"""Joules of one call: a counter of the processor or of the card, read before and after many calls.

Counters are coarse (RAPL moves every millisecond, NVML every 20 to 100 ms) and count everything that the processor or the
card does. So a window has at least 2 s of calls, and the power of an idle window beside it says how much is not theirs.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from rtaccel.core.errors import FormatError
from rtaccel.measure.numbers import figure, is_finite, shown
from rtaccel.measure.timing import sampler

MIN_SECONDS = 2.0

MAX_SECONDS = 86_400.0

POWERCAP = Path("/sys/class/powercap")

_CHUNK_NS = 2_000_000


class Counter(Protocol):
    """name: what it counts. joules: so far, from any start; never less than before."""

    @property
    def name(self) -> str: ...

    def joules(self) -> float: ...


@dataclass(frozen=True)
class Energy:
    """joules_per_call: of everything counted while the calls ran back to back; None where nothing counts, and `reason`
    says why. watts: mean power meanwhile. idle_watts: of a window of the same length without calls.
    calls, seconds: of the window. source: the counter.
    """

    joules_per_call: float | None
    watts: float | None = None
    idle_watts: float | None = None
    calls: int = 0
    seconds: float = 0.0
    source: str | None = None
    reason: str | None = None

    @property
    def joules_above_idle(self) -> float | None:
        """Of one call, without what the machine takes when it waits; None where that is not known."""
        if self.watts is None or self.idle_watts is None or not self.calls:
            return None
        return (self.watts - self.idle_watts) * self.seconds / self.calls

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"joules_above_idle": self.joules_above_idle}

    def __str__(self) -> str:
        if self.joules_per_call is None:
            return f"not measured: {self.reason}"
        above = self.joules_above_idle
        more = "" if above is None else f", {_amount(above)} of it above idle"
        return (
            f"{_amount(self.joules_per_call)} per call{more} ({self.watts:.3g} W over {self.seconds:.2g} s and "
            f"{self.calls:,} calls, {self.source})"
        )


def measure_energy(
    fn: Callable[..., object],
    inputs: Any = (),
    seconds: float = MIN_SECONDS,
    *,
    device: str = "cpu",
    counter: Counter | None = None,
    idle: bool = True,
) -> Energy:
    """Energy of `fn(*inputs)`, called back to back for `seconds`, at least 2.

    device: "cpu" reads RAPL (all packages of the machine), "cuda" the current card through NVML (extra `energy`).
    counter: another one instead.
    idle: measure an idle window of the same length before.

    Work that a call leaves running on a GPU is counted as far as the window reaches; let the callable synchronize.
    Gives `Energy(None, reason=...)` where there is no counter, none that may be read, or one that stands still.
    Raises FormatError for a window below 2 s. What `fn` raises goes through unchanged.
    """
    if not callable(fn):
        raise FormatError(
            "energy", f"fn of type {type(fn).__name__}", "something callable", "Pass the function itself."
        )
    if not (is_finite(seconds) and MIN_SECONDS <= seconds <= MAX_SECONDS):
        expected = f"at least {MIN_SECONDS:g} s, and {MAX_SECONDS:,.0f} at most"
        raise FormatError("energy", f"seconds={shown(seconds)}", expected, "Counters are too coarse for less.")
    found = counter or find_counter(device)
    if isinstance(found, str):
        return Energy(None, reason=found)
    args = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    with sampler.no_grad():
        idle_watts = _idle(found, seconds) if idle else None
        first = time.perf_counter_ns()
        sampler.check_ran(fn(*args))
        chunk = max(1, _CHUNK_NS // max(1, time.perf_counter_ns() - first))
        calls, joules, start = 0, found.joules(), time.perf_counter_ns()
        end = start
        while end - start < seconds * 1e9:
            for _ in range(chunk):
                fn(*args)
            calls += chunk
            end = time.perf_counter_ns()
        joules = found.joules() - joules
    passed = (end - start) / 1e9
    if joules <= 0:
        return Energy(
            None, calls=calls, seconds=passed, source=found.name, reason=f"{found.name} stood still for {passed:.3g} s"
        )
    return Energy(joules / calls, joules / passed, idle_watts, calls, passed, found.name)


def _idle(counter: Counter, seconds: float) -> float:
    start, before = time.perf_counter(), counter.joules()
    time.sleep(seconds)
    return (counter.joules() - before) / (time.perf_counter() - start)


def find_counter(device: str = "cpu") -> Counter | str:
    """The counter for a device, "cpu" or "cuda", or the reason why there is none."""
    if device not in ("cpu", "cuda"):
        raise FormatError("energy", f"device={shown(device)}", '"cpu" or "cuda"', "Others have no counter here.")
    return nvml() if device == "cuda" else rapl()


class Rapl:
    """Sum over the packages of the machine (the powercap interface of Linux; Intel and AMD). Wraps are counted."""

    def __init__(self, zones: Sequence[Path]) -> None:
        self._zones = [(zone / "energy_uj", int((zone / "max_energy_range_uj").read_text())) for zone in zones]
        self._last = [self._read(path) for path, _ in self._zones]
        self._total = 0

    @property
    def name(self) -> str:
        return f"RAPL, {len(self._zones)} package{'s' * (len(self._zones) > 1)}"

    @staticmethod
    def _read(path: Path) -> int:
        return int(path.read_text())

    def joules(self) -> float:
        for i, (path, span) in enumerate(self._zones):
            now = self._read(path)
            self._total += now - self._last[i] + (span if now < self._last[i] else 0)
            self._last[i] = now
        return self._total / 1e6


def rapl(root: Path = POWERCAP) -> Counter | str:
    """All zones named package-N, each once: cores and memory are parts of them, and psys contains them."""
    if not root.is_dir():
        return f"no RAPL counter: {root} is not there (a virtual machine, or a kernel without powercap)"
    zones: dict[str, Path] = {}
    for zone in sorted(root.glob("intel-rapl*:*")):  # that is what AMD's are called too
        name = zone / "name"
        if name.is_file() and (text := name.read_text().strip()).startswith("package-"):
            zones.setdefault(text, zone)
    if not zones:
        return f"no RAPL counter: {root} has no zone of a package"
    try:
        return Rapl(list(zones.values()))
    except PermissionError as error:
        return f"RAPL may not be read: {error.filename} is for root alone; chmod a+r it, or run as root"
    except (OSError, ValueError) as error:
        return f"RAPL cannot be read: {error}"


class Nvml:
    """Since the driver was loaded, of one card (nvmlDeviceGetTotalEnergyConsumption: Volta and later)."""

    def __init__(self, library: Any, index: int) -> None:
        self._library = library
        self._handle = library.nvmlDeviceGetHandleByIndex(index)
        name = library.nvmlDeviceGetName(self._handle)
        self.name = f"NVML, {name.decode() if isinstance(name, bytes) else name}"
        self.joules()

    def joules(self) -> float:
        return float(self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3


def nvml(index: int = 0) -> Counter | str:
    """A card by NVML's own number, which is the one nvidia-smi shows."""
    try:
        library = importlib.import_module("pynvml")
    except ModuleNotFoundError:
        return "no NVML: nvidia-ml-py is not installed (pip install 'rtaccel[energy]')"
    try:
        library.nvmlInit()
        return Nvml(library, index)
    except library.NVMLError as error:
        return f"NVML gives no energy: {error}"


def _amount(joules: float) -> str:
    for limit, factor, unit in ((1e-6, 1e9, "nJ"), (1e-3, 1e6, "µJ"), (1.0, 1e3, "mJ")):
        if abs(joules) < limit:
            return f"{figure(joules * factor, 3)} {unit}"
    return f"{figure(joules, 3)} J"
