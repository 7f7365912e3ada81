"""What a user of C++ does: find_package and pkg-config from an installed package, the wrapper, and files that are swapped."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.cli.main import main
from tests.support.processes.run import PYTHON

PROJECT = Path(__file__).parent / "cmake_project"
EXAMPLES = Path(__file__).parents[2] / "examples" / "native"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, made = tmp_path_factory.mktemp("files"), []
    for seed in range(2):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(9, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
        made.append(rt.save(rt.compile(model, torch.randn(1, 9)), folder / f"{seed}.rta", name="control"))
    return made


def folder_of(option: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["info", option]) == 0
    found = capsys.readouterr().out.strip()
    assert Path(found).is_dir()
    return found


def check(program: Path, files: list[Path]) -> None:
    done = subprocess.run([program, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    head, first, second, third, small, missing = done.stdout.splitlines()
    assert head == "control 1 1"
    x = (0.25 * np.arange(9, dtype=np.float32) - 1)[None]
    for line, file in ((first, files[0]), (second, files[1]), (third, files[0])):
        want = rt.load(file)(x)[0]
        assert [float.fromhex(word) for word in line.split()] == want.tolist()
    assert small.startswith("8 y is not")
    assert missing.startswith("1 ") and "no/such/file.rta" in missing


def build(source: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cmake = shutil.which("cmake") or shutil.which("cmake", path=str(Path(sys.executable).parent))
    if cmake is None or shutil.which("c++") is None:
        pytest.skip("no cmake, or no C++ compiler")
    for command in (
        [cmake, "-S", source, "-B", folder, f"-Drtaccel_DIR={folder_of('--cmake-dir', capsys)}"],
        [cmake, "--build", folder],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stderr, done.stderr


def test_find_package(files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(PROJECT, tmp_path, capsys)
    check(tmp_path / "user", files)


def test_the_examples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(EXAMPLES, tmp_path, capsys)
    models = [*PYTHON, EXAMPLES / "make_models.py", tmp_path]
    subprocess.run(models, check=True, cwd=EXAMPLES.parents[1])
    done = subprocess.run(
        [tmp_path / "control_loop", tmp_path / "policy.rta", "100", "0.2"], capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr  # 1: this machine was busy
    assert done.stdout.startswith("Sequential at 100 Hz, 21 cycles, ")
    for file, outputs in (("policy", ["output"]), ("steer", ["output_0", "output_1"]), ("filter", ["output"])):
        done = subprocess.run(
            [tmp_path / "model_loop", tmp_path / f"{file}.rta", "100", "2000"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        head, *lines = done.stdout.splitlines()
        cycles, fresh = int(head.split(": ")[1].split()[0]), int(head.rsplit(" ", 2)[1])
        assert cycles >= 100 and 0 < fresh <= cycles, head
        assert [line.split()[0] for line in lines[:3]] == ["wake-up", "work", "response"]
        assert [line.split(",")[0] for line in lines[3:]] == outputs
    done = subprocess.run(
        [tmp_path / "audio_file", tmp_path / "filter.rta", tmp_path / "in.f32", tmp_path / "out.f32"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "100 blocks of 64 samples\n", done.stderr
    live = rt.load(tmp_path / "filter.rta")
    blocks = np.fromfile(tmp_path / "in.f32", np.float32).reshape(100, 1, 64)
    want = np.concatenate([live.step(block) for block in blocks])
    assert np.array_equal(np.fromfile(tmp_path / "out.f32", np.float32).reshape(100, 64), want)


def test_the_controller(files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    include, library = folder_of("--include-dir", capsys), folder_of("--library-dir", capsys)
    command = ["c++", "-std=c++17", "-Wall", "-Wextra", str(Path(__file__).parent / "controller.cpp"), f"-I{EXAMPLES}"]
    command += [f"-I{EXAMPLES / 'ros2_control' / 'stubs'}", f"-I{include}", f"-L{library}", f"-Wl,-rpath,{library}"]
    done = subprocess.run([*command, "-lrtaccel", "-o", tmp_path / "c"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    done = subprocess.run([tmp_path / "c", *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    x = (0.25 * np.arange(9, dtype=np.float32) - 1)[None]
    for line, file in zip(done.stdout.splitlines(), files):
        assert [float.fromhex(word) for word in line.split()] == rt.load(file)(x)[0].tolist()


def test_pkg_config(files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("pkg-config") is None or shutil.which("c++") is None:
        pytest.skip("no pkg-config, or no C++ compiler")
    environment = {**os.environ, "PKG_CONFIG_PATH": folder_of("--pkgconfig-dir", capsys)}
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "rtaccel"], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    command = ["c++", "-std=c++17", "-Wall", "-Wextra", "-Werror", str(PROJECT / "main.cpp"), *flags]
    done = subprocess.run([*command, "-o", tmp_path / "user"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check(tmp_path / "user", files)
