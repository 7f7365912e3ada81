"""Energy: counters that are read rightly, windows that are long enough, and a reason wherever there is no figure."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from rtaccel.core.errors import FormatError
from rtaccel.measure.energy import Energy, Rapl, find_counter, measure_energy, nvml, rapl


def powercap(root: Path, **zones: tuple[str, int]) -> Path:
    """A tree as Linux has it: zone -> (name, microjoules)."""
    for zone, (name, energy) in zones.items():
        folder = root / zone.replace("_", ":").replace("rapl:", "intel-rapl:")
        folder.mkdir(parents=True)
        (folder / "name").write_text(name + "\n")
        (folder / "energy_uj").write_text(f"{energy}\n")
        (folder / "max_energy_range_uj").write_text("1000000\n")
    return root


def test_packages_are_summed_and_wraps_are_counted(tmp_path: Path) -> None:
    root = powercap(
        tmp_path, rapl_0=("package-0", 900_000), rapl_1=("package-1", 100), rapl_0_0=("core", 5), rapl_2=("psys", 7)
    )
    counter = rapl(root)
    assert isinstance(counter, Rapl)
    assert counter.name == "RAPL, 2 packages"
    assert counter.joules() == 0
    (root / "intel-rapl:0" / "energy_uj").write_text("100000\n")  # wrapped at 1 J
    (root / "intel-rapl:1" / "energy_uj").write_text("300100\n")
    (root / "intel-rapl:2" / "energy_uj").write_text("999999\n")
    assert counter.joules() == pytest.approx(0.2 + 0.3)
    assert counter.joules() == pytest.approx(0.5)


def test_why_there_is_no_rapl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is not there" in str(rapl(tmp_path / "none"))
    assert "no zone of a package" in str(rapl(powercap(tmp_path / "a", rapl_0=("psys", 1))))
    root = powercap(tmp_path / "b", rapl_0=("package-0", 1))
    (root / "intel-rapl:0" / "energy_uj").write_text("not a number")
    assert "cannot be read" in str(rapl(root))

    def denied(path: Path) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Rapl, "_read", staticmethod(denied))
    assert "root alone" in str(rapl(root))


class Meter:
    """Counts 2 joules for each call and 10 watts beside them."""

    name = "a meter"

    def __init__(self) -> None:
        self.calls = 0

    def call(self) -> None:
        self.calls += 1
        time.sleep(0.002)

    def joules(self) -> float:
        return 2.0 * self.calls + 10 * time.perf_counter()


def test_joules_of_a_call_and_above_idle() -> None:
    meter = Meter()
    found = measure_energy(meter.call, seconds=2.0, counter=meter)
    assert found.seconds >= 2.0
    assert found.calls == meter.calls - 1  # one before, to know how long a call takes
    assert found.joules_per_call == pytest.approx(2.0 + 10 * found.seconds / found.calls, rel=0.02)
    assert found.idle_watts == pytest.approx(
        10, rel=0.2
    )  # the joules and the time of a busy machine are not read at once
    assert found.joules_above_idle == pytest.approx(2.0, rel=0.02)
    assert "per call" in str(found)
    assert found.to_dict()["joules_above_idle"] == found.joules_above_idle


def test_a_counter_that_stands_still_gives_no_figure() -> None:
    still = SimpleNamespace(name="a dead meter", joules=lambda: 7.0)
    found = measure_energy(lambda: time.sleep(0.01), seconds=2.0, counter=still, idle=False)
    assert found.joules_per_call is None
    assert "stood still" in (found.reason or "")
    assert "not measured" in str(found)


@pytest.mark.parametrize("seconds", [0, 1.99, float("nan"), float("inf"), None])
def test_short_windows_are_refused(seconds: float) -> None:
    with pytest.raises(FormatError, match="seconds"):
        measure_energy(lambda: None, seconds=seconds)


def test_no_counter_is_a_reason_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtaccel.measure.energy.POWERCAP", Path("/no/such/folder"))
    monkeypatch.setattr("rtaccel.measure.energy.rapl", lambda: "no RAPL counter: none here")
    found = measure_energy(lambda: 1 / 0)  # not even called
    assert found == Energy(None, reason="no RAPL counter: none here")


class NvmlError(Exception):
    pass


def card(monkeypatch: pytest.MonkeyPatch, energy: object, name: object = b"A card") -> None:
    def total(handle: int) -> object:
        if isinstance(energy, Exception):
            raise energy
        return energy

    library = SimpleNamespace(
        NVMLError=NvmlError, nvmlInit=lambda: None, nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda handle: name, nvmlDeviceGetTotalEnergyConsumption=total,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "pynvml", library)


def test_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    card(monkeypatch, 12_500)
    found = find_counter("cuda")
    assert not isinstance(found, str)
    assert found.name == "NVML, A card"
    assert found.joules() == 12.5
    card(monkeypatch, NvmlError("Not Supported"))
    assert "Not Supported" in str(nvml())
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "not installed" in str(nvml())
