"""What a release is made of: the wheels that follow from the interpreters that are here, and the exported symbols."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import rtaccel._native
from tests.support.wheel import ROOT

sys.path.insert(0, str(ROOT))
from release import abi, wheels
from release.matrix import ARCHITECTURES, STABLE, VERSIONS, Interpreter, Target, serves, targets

SYMBOLS = ROOT / "release" / "symbols.txt"


def interpreter(minor: int, headers: bool = True) -> Interpreter:
    return Interpreter((3, minor), f"/usr/bin/python3.{minor}", headers)


def test_one_wheel_serves_what_has_the_stable_abi() -> None:
    wanted, missing = targets([interpreter(m) for m in (13, 12, 11, 10, 14)], ARCHITECTURES)
    assert [t.name for t in wanted] == [
        f"{tag}-{arch}" for arch in ARCHITECTURES for tag in ("cp310-cp310", "cp311-cp311", "cp312-abi3")
    ]
    assert not missing
    for version in VERSIONS:
        assert sum(t.runs_on(version) for t in wanted) == len(ARCHITECTURES)


def test_sources_are_those_of_the_archive(tmp_path: Path) -> None:
    """A second archive leaves what has not changed as it is, and nothing that it does not have."""
    times = []
    for files in ({"a.cc": "1", "kernels/b.cc": "2", "kernels/c.cc": "3"}, {"a.cc": "1", "kernels/b.cc": "4"}):
        with tarfile.open(tmp_path / "s.tar.gz", "w:gz") as archive:
            for name, text in files.items():
                entry = tarfile.TarInfo(f"rtaccel-0.1.0/{name}")
                entry.size = len(text)
                archive.addfile(entry, io.BytesIO(text.encode()))
        made = wheels.unpacked(tmp_path / "s.tar.gz", tmp_path / "sources")
        assert {str(p.relative_to(made)): p.read_text() for p in made.rglob("*") if p.is_file()} == files
        times.append((made / "a.cc").stat().st_mtime_ns)
    assert times[0] == times[1]


def test_what_is_missing_is_said() -> None:
    wanted, missing = targets([interpreter(11, headers=False), interpreter(13)], ["x86_64"])
    assert [t.name for t in wanted] == ["cp312-abi3-x86_64"]
    assert [line.split(":")[0] for line in missing] == [
        "a wheel for CPython 3.10", "a wheel for CPython 3.11", "a trial on CPython 3.12", "a trial on CPython 3.14",
    ]  # fmt: skip
    assert "headers" in missing[1]
    wanted, missing = targets([interpreter(10)], ["aarch64"])
    assert [t.name for t in wanted] == ["cp310-cp310-aarch64"]
    assert len(missing) == 4


def test_names_of_a_target() -> None:
    target = Target("aarch64", interpreter(10))
    assert (target.zig, target.platform) == ("aarch64-linux-gnu.2.28", "manylinux_2_28_aarch64")
    assert target.environment == {
        "_PYTHON_HOST_PLATFORM": "linux-aarch64",
        "SETUPTOOLS_EXT_SUFFIX": ".cpython-310-aarch64-linux-gnu.so",
    }
    configured = (ROOT / "pyproject.toml").read_text()
    assert f'wheel.py-api = "cp{STABLE[0]}{STABLE[1]}"' in configured
    assert f'requires-python = ">={VERSIONS[0][0]}.{VERSIONS[0][1]}"' in configured


def test_a_wheel_for_a_newer_system_is_refused() -> None:
    target = Target("aarch64", interpreter(13))
    assert serves("rtaccel-0.1.0-cp312-abi3-manylinux_2_28_aarch64.whl", target)
    assert serves("rtaccel-0.1.0-cp312-abi3-manylinux_2_17_aarch64.manylinux2014_aarch64.whl", target)
    assert not serves("rtaccel-0.1.0-cp312-abi3-manylinux_2_34_aarch64.whl", target)
    assert not serves("rtaccel-0.1.0-cp312-abi3-manylinux_2_28_x86_64.whl", target)
    assert not serves("rtaccel-0.1.0-cp311-cp311-manylinux_2_28_aarch64.whl", target)
    assert not serves("rtaccel-0.1.0-cp312-abi3-linux_aarch64.whl", target)


def exported(library: Path) -> list[str]:
    done = subprocess.run(["nm", "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True)
    return sorted(line.split()[2].partition("@")[0] for line in done.stdout.splitlines())


def test_exported_symbols_are_those_of_the_list() -> None:
    """A symbol that goes or comes is a change of the ABI: RTA_ABI_VERSION and release/symbols.txt change with it."""
    library = Path(str(rtaccel._native.__file__)).parent / "librtaccel.so"
    if shutil.which("nm") is None or not library.exists():
        pytest.skip("nm is not installed, or the library is elsewhere")
    kept = SYMBOLS.read_text().split()
    found = exported(library)
    assert found == kept, f"gone: {sorted(set(kept) - set(found))}, new: {sorted(set(found) - set(kept))}"


def test_types_of_the_abi_are_those_of_the_record(tmp_path: Path) -> None:
    """A function, structure or constant that is another: RTA_ABI_VERSION and release/abi.c change with it."""
    if why := abi.missing():
        pytest.skip(why)
    kind, said = abi.changes(abi.RECORD.read_text(), abi.definitions(), tmp_path)
    assert not kind, said


CHANGES = [
    ("int64_t sample_elements;", "int32_t sample_elements;", "changed"),
    ("RTA_BAD_DIGEST = 4", "RTA_BAD_DIGEST = 40", "changed"),
    ("void rta_model_close(rta_model* model)", "void rta_model_shut(rta_model* model)", "changed"),
    ("void rta_model_close(rta_model* model)", "void rta_model_close(rta_model* model, int how)", "changed"),
    ("void rta_model_close(", "int rta_of_tomorrow(int a) {}\nvoid rta_model_close(", "added"),
]


@pytest.mark.parametrize(("old", "new", "kind"), CHANGES)
def test_a_changed_abi_is_seen(tmp_path: Path, old: str, new: str, kind: str) -> None:
    if why := abi.missing():
        pytest.skip(why)
    record = abi.RECORD.read_text()
    assert record.count(old) == 1
    assert abi.changes(record, record.replace(old, new), tmp_path)[0] == kind


def test_the_record_defines_every_exported_function(tmp_path: Path) -> None:
    if why := abi.missing():
        pytest.skip(why)
    assert exported(abi.library(tmp_path / "librtaccel.so", abi.RECORD.read_text())) == SYMBOLS.read_text().split()


def test_every_exported_function_is_declared_in_a_public_header() -> None:
    headers = [*ROOT.glob("native/*/rta_*.h"), *ROOT.glob("kernels/_core/rta_*.h"), ROOT / "native" / "rtaccel.h"]
    text = "\n".join(path.read_text() for path in headers)
    missing = [name for name in SYMBOLS.read_text().split() if not re.search(rf"\b{name}\b", text)]
    assert missing == []
