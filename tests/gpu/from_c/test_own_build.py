"""Code for a card from a build of one's own: sources from a file of a model, CMake and nvcc, and C that takes no other code."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.cli.main import main
from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.deploy import container
from rtaccel.deploy.persistent import kernel_sources
from rtaccel.deploy.persistent import section as persistent_section
from rtaccel.deploy.persistent.kernel_sources import write_kernel_sources
from rtaccel.kernels._gpu import cuda_nvrtc
from rtaccel.runtime.gpu import persistent_chains, persistent_choice
from tests.cuda_checks import on_host
from tests.deploy import forged
from tests.gpu.from_c.conftest import Machine, Save

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="persistent kernels need triton"),
    pytest.mark.skipif(cuda_nvrtc.unavailable() is not None, reason=f"{cuda_nvrtc.unavailable()}"),
    pytest.mark.skipif(on_host.missing() is not None, reason="no C++ compiler"),
]

ROOT = cuda_nvrtc.FOLDER.parent
CORPUS = Path(__file__).parents[2] / "native" / "corpus"
NVCC = shutil.which("nvcc")
CMAKE = shutil.which("cmake") or shutil.which("cmake", path=str(Path(sys.executable).parent))
CANNOT_READ, BAD_FORMAT, NO_KERNEL = 1, 2, 6
X = [0.5, -1.0, 2.0]


@pytest.fixture
def file(machine: Machine, save: Save) -> Path:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    fast = rt.compile(net, torch.randn(1, 3), "w8a8", calibration=[torch.randn(32, 3)])
    with persistent_choice.only(persistent_chains.CUDA):
        return save(fast, cards=("sm_80", "sm_90"))


def key_of(file: Path) -> str:
    section = container.tensor("test", file.read_bytes(), persistent_section.TENSOR)
    assert section is not None
    keys = {key for _, key, _ in persistent_section.launches_in(section)}
    assert len(keys) == 1
    return keys.pop()


def fatbin(content: bytes) -> bytes:
    """One whose code is none."""
    return (0xBA55ED50).to_bytes(4, "little") + b"\1\0\x10\0" + len(content).to_bytes(8, "little") + content


def its_own(machine: Machine, file: Path, folder: Path, content: bytes) -> None:
    """Puts code into a folder of one's own; the driver then computes nothing else."""
    folder.mkdir(exist_ok=True)
    (folder / f"{key_of(file)}.fatbin").write_bytes(content)
    for cubin in machine.code.glob("*.cubin"):
        cubin.write_bytes(content)


def test_the_code_is_that_of_the_folder(file: Path, machine: Machine, tmp_path: Path) -> None:
    _, with_its_own = machine.calls(["open", "a", str(file)], ["step", "a", X])
    its_own(machine, file, tmp_path / "own", fatbin(b"code" * 40))
    taken, about, y, _ = machine.calls(
        ["code", str(tmp_path / "own")], ["open", "a", str(file)], ["step", "a", X], ["close", "a"]
    )
    assert taken == "taken" and about["capability"] == 90
    assert y == with_its_own
    (code, _), _, again = machine.calls(["open", "a", str(file)], ["code", None], ["open", "a", str(file)])
    assert code != NO_KERNEL and again[0] == code  # this driver does not know the file's code


def test_what_is_not_there_is_not_taken_from_the_file(file: Path, machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    _, (code, text), _, about = machine.calls(
        ["code", str(tmp_path / "own")], ["open", "a", str(file)], ["code", None], ["open", "a", str(file)]
    )
    assert code == NO_KERNEL and f"{key_of(file)}.fatbin is not there" in text
    assert about["capability"] == 90


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:12],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: b"\177ELF" + content[4:],
        lambda content: content[:6] + b"\0\0" + content[8:],
        lambda content: content[:6] + b"\xff\xff" + content[8:],
    ],
)
def test_what_is_no_fatbin(damage: Callable[[bytes], bytes], file: Path, machine: Machine, tmp_path: Path) -> None:
    its_own(machine, file, tmp_path / "own", damage(fatbin(b"code" * 40)))
    _, (code, text) = machine.calls(["code", str(tmp_path / "own")], ["open", "a", str(file)])
    assert code == BAD_FORMAT and "is no fatbin" in text


def test_what_is_no_folder(file: Path, machine: Machine) -> None:
    (code, text), _ = machine.calls(["code", str(file)], ["open", "a", str(file)])
    assert code == CANNOT_READ and "is no folder" in text
    (code, text), about = machine.calls(["code", str(file.parent / "none")], ["open", "a", str(file)])
    assert code == CANNOT_READ and about["capability"] == 90  # nothing has changed


@pytest.mark.skipif(NVCC is None or CMAKE is None, reason="nvcc or cmake is not here")
def test_from_a_file_to_a_fatbin_by_cmake(
    file: Path, machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The way of the guide: kernel-sources, CMake, rta_gpu_code. The fatbin holds code for both cards."""
    forms, build = tmp_path / "forms", tmp_path / "build"
    assert main(["kernel-sources", str(file), str(forms), "--json"]) == 0
    (name,) = json.loads(capsys.readouterr().out)["sources"]
    assert name == f"{key_of(file)}.sm_80.sm_90.cu"
    options = ["-DRTACCEL_CUDA=ON", f"-DRTACCEL_CUDA_FORMS={forms}", f"-DRTACCEL_NVCC={NVCC}"]
    for command in (["-S", str(ROOT), "-B", str(build), *options], ["--build", str(build), "--target", "rtaccel_cuda"]):
        done = subprocess.run([str(CMAKE), *command], capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stderr
    (made,) = (build / "cuda").glob("*.fatbin")
    content = made.read_bytes()
    assert made.stem == key_of(file) and content.count(b"\177ELF") == 2
    its_own(machine, file, tmp_path / "own", content)
    _, about, y = machine.calls(["code", str(tmp_path / "own")], ["open", "a", str(file)], ["step", "a", X])
    assert about["capability"] == 90 and isinstance(y, str)


@pytest.mark.skipif(CMAKE is None, reason="cmake is not here")
def test_cmake_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "forms").mkdir()
    done = subprocess.run(
        [str(CMAKE), "-S", str(ROOT), "-B", str(tmp_path / "build"), "-DRTACCEL_CUDA=ON", "-DRTACCEL_NVCC=/bin/true",
         f"-DRTACCEL_CUDA_FORMS={tmp_path / 'forms'}"], capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode != 0 and "holds no form" in done.stderr and "kernel-sources" in done.stderr


# -- what a file tells ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole() -> bytes:
    return (CORPUS / "persistent-chains.rta").read_bytes()


def test_the_source_is_the_form(whole: bytes, tmp_path: Path) -> None:
    (path,) = write_kernel_sources(whole, tmp_path)
    text = path.read_text()
    assert "#define RTA_WIDTHS 3, 4, 2\n" in text and text.endswith('#include "mlp/cuda/chain.cu"\n')
    write_kernel_sources(whole, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def forge(whole: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """With another recipe of the same length."""
    at = whole.index(b'{"file": ')
    end = whole.index(b"\0", at)
    told = json.loads(whole[at:end])
    change(told)
    text = json.dumps(told, separators=(",", ":")).encode()
    assert len(text) <= end - at
    return forged.resealed(bytearray(whole[:at] + text.ljust(end - at) + whole[end:]))


def is_refused(content: bytes, folder: Path) -> str:
    with pytest.raises(FormatError) as raised:
        write_kernel_sources(content, folder)
    assert not folder.exists()
    return str(raised.value)


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.cu", "mlp/cuda/none.cu", 7])
def test_what_would_leave_the_package(name: object, whole: bytes, tmp_path: Path) -> None:
    assert "as rt.save tells it" in is_refused(forge(whole, lambda told: told.update(file=name)), tmp_path / "no")


@pytest.mark.parametrize("pair", [["A B", "1"], ["A", "1\n#error"], ["A", 'x"y'], ["A", "a;b"]])
def test_what_would_leave_a_line(pair: list[str], whole: bytes, tmp_path: Path) -> None:
    def change(told: dict[str, Any]) -> None:
        told["definitions"][0] = pair

    assert "as rt.save tells it" in is_refused(forge(whole, change), tmp_path / "no")


def test_another_definition_is_another_kernel(whole: bytes, tmp_path: Path) -> None:
    def change(told: dict[str, Any]) -> None:
        told["definitions"][-1] = [told["definitions"][-1][0], 1]

    assert "not the source that" in is_refused(forge(whole, change), tmp_path / "no")


def test_a_release_with_other_sources(whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_nvrtc, "OPTIONS", {**cuda_nvrtc.OPTIONS, "fma": True})
    assert "Install that one" in is_refused(whole, tmp_path / "no")


def test_bytes_that_are_not_those_that_were_written(whole: bytes, tmp_path: Path) -> None:
    changed = bytearray(whole)
    changed[-1] ^= 1
    assert "not those that were written" in is_refused(bytes(changed), tmp_path / "no")


def test_a_section_that_is_cut(whole: bytes) -> None:
    section = container.tensor("test", whole, persistent_section.TENSOR)
    assert section is not None
    assert len(persistent_section.launches_in(section)) == 2
    for size in range(0, len(section), 7):
        with pytest.raises(FormatError):
            persistent_section.launches_in(section[:size])


def test_a_file_without(tmp_path: Path) -> None:
    assert "without persistent kernels" in is_refused((CORPUS / "attention.rta").read_bytes(), tmp_path / "no")


def test_kernels_of_triton() -> None:
    with pytest.raises(UnsupportedProblem, match="Triton"):
        kernel_sources._kernel("0" * 32, b"")
