"""Setting up without a network: what is missing is said, and nothing is downloaded."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.device import install

ROOT = Path(__file__).parent.parent.parent.parent


def test_nothing_is_fetched_and_only_the_project_is_installed() -> None:
    words = install.command(False)
    assert {"--no-index", "--no-deps", "--no-build-isolation"} <= set(words)
    assert words[-2:] == ["-e", str(ROOT)]
    assert "--break-system-packages" in install.command(True)


@pytest.fixture(autouse=True)
def no_stamp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(install, "STAMP", tmp_path / "stamp")


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine that has every package; what is on the list is missing."""
    gone: list[str] = []
    monkeypatch.setattr(install, "is_there", lambda module: module not in gone)
    return gone


def test_what_is_optional_is_left_out_with_its_purpose(
    bare: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bare += ["torchao", "cuda.core"]
    monkeypatch.setattr(install, "native_imports", lambda: True)
    monkeypatch.setattr(install, "install", lambda: pytest.fail("there is nothing to install"))
    assert install.setup() == 0
    said = capsys.readouterr().out
    assert "left out: torchao, for its quantization beside ours" in said
    assert "left out: cuda-core, for kernels built ahead" in said
    assert "The native module is there" in said


@pytest.mark.parametrize(("gone", "native"), [("torch", True), ("triton", False), ("nanobind", False), ("pip", False)])
def test_what_is_needed_stops_it_and_is_named(
    bare: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gone: str, native: bool
) -> None:
    bare.append(gone)
    monkeypatch.setattr(install, "native_imports", lambda: native)
    monkeypatch.setattr(install, "install", lambda: pytest.fail("it cannot work"))
    assert install.setup() == 1
    assert f"next: install {gone}" in capsys.readouterr().out


def test_what_a_build_needs_is_not_asked_for_where_nothing_is_built(
    bare: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bare += ["nanobind", "pip"]
    monkeypatch.setattr(install, "native_imports", lambda: True)
    assert install.setup() == 0


@pytest.mark.parametrize(("managed", "asked"), [(False, 1), (True, 2)])
def test_a_managed_python_is_asked_again_with_consent(
    bare: list[str], monkeypatch: pytest.MonkeyPatch, managed: bool, asked: int
) -> None:
    calls: list[list[str]] = []

    def run(words: list[str], **_: Any) -> Any:
        calls.append(words)
        refused = managed and "--break-system-packages" not in words
        return SimpleNamespace(returncode=int(refused), stdout="", stderr="error: externally-managed-environment")

    monkeypatch.setattr(subprocess, "run", run)
    assert install.install() is None
    assert len(calls) == asked


def test_a_build_that_fails_is_shown(
    bare: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(install, "native_imports", lambda: False)
    monkeypatch.setattr(
        subprocess, "run", lambda words, **_: SimpleNamespace(returncode=1, stdout="", stderr="cc1plus: fatal error")
    )
    assert install.setup() == 1
    said = capsys.readouterr().out
    assert "cc1plus: fatal error" in said
    assert "C++ compiler" in said


def test_other_sources_are_installed_again(
    bare: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    installed: list[int] = []
    monkeypatch.setattr(install, "native_imports", lambda: True)
    monkeypatch.setattr(install, "install", lambda: installed.append(1))
    monkeypatch.setattr(install, "STAMP", tmp_path / "new" / "stamp")
    assert install.setup() == 0
    assert not installed, "what somebody else installed is used as it is"
    install.STAMP.parent.mkdir()
    install.STAMP.write_text("of other sources")
    assert install.setup() == 0
    assert len(installed) == 1
    assert install.STAMP.read_text() == install.sources()
    assert install.setup() == 0
    assert len(installed) == 1
    assert "Installed." in capsys.readouterr().out


def offline() -> list[str]:
    """What runs a command where no network is; empty where this system does not let one."""
    words = ["unshare", "-rn"]
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        return []
    return words


def test_it_works_where_no_network_is() -> None:
    """With the native module of this checkout: the quick way. the build takes minutes and is not tried here."""
    words = offline()
    if not words:
        pytest.skip("this system makes no namespace without a network")
    code = (
        "import socket\n"
        "try: socket.create_connection(('192.0.2.1', 9), 1)\n"
        "except OSError: pass\n"
        "else: raise SystemExit('there is a network')\n"
        "from bench.device.__main__ import main; raise SystemExit(main(['setup']))"
    )
    done = subprocess.run([*words, sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    if "triton" in done.stdout and "MISSING" in done.stdout:
        pytest.skip("triton is not installed")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing to install" in done.stdout
