"""Tries a wheel in an environment of its own with NumPy alone: the bits of models, the C library, a learner."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from release.matrix import Interpreter, Target

MAKE_MODELS = """
import sys
from pathlib import Path
import numpy as np, torch
from torch import nn
import rtaccel as rt
folder = Path(sys.argv[1])
class Last(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.memory, self.head = kind(6, 21, batch_first=True), nn.Linear(21, 3)
    def forward(self, x):
        return self.head(self.memory(x)[0][:, -1])
one = rt.save(rt.compile(nn.Linear(8, 8).eval(), torch.randn(1, 8)), folder / "one.rta")
(folder / "set").write_text(rt.load(one)._native.stages[0][2])
one.unlink()
networks = {
    "mlp": (nn.Sequential(nn.Linear(24, 67), nn.ReLU(), nn.Linear(67, 33), nn.Tanh(), nn.Linear(33, 8)), (24,)),
    "conv": (nn.Sequential(nn.Conv1d(3, 20, 5, padding=2), nn.ReLU(), nn.Conv1d(20, 9, 3)), (3, 31)),
    "lstm": (Last(nn.LSTM), (9, 6)), "gru": (Last(nn.GRU), (9, 6)),
}
schemes = {"mlp": ("float32", "w8a8", "w8a16", "w4a16", "w4a8", "bfloat16"), "conv": ("float32", "w8a8"),
           "lstm": ("float32", "w8a8", "w4a8"), "gru": ("float32", "w8a8", "w4a8")}
for name, (net, shape) in networks.items():
    for scheme in schemes[name]:
        torch.manual_seed(0)
        calibration = [torch.randn(64, *shape)] if scheme in ("w8a8", "w4a8") else None
        fast = rt.compile(net.eval(), torch.randn(1, *shape), scheme, calibration=calibration)
        x = torch.randn(5, *shape)
        np.savez(folder / f"{name}-{scheme}.npz", x=x.numpy(), y=fast(x).numpy())
        rt.save(fast, folder / f"{name}-{scheme}.rta")
"""

PROGRAM = """
import ctypes, json, platform, sys
from pathlib import Path
import numpy as np
import rtaccel as rt
import rtaccel._native as native
package = Path(rt.__file__).parent
library = ctypes.CDLL(str(package / "librtaccel.so"))
library.rta_isa.restype = ctypes.c_char_p
told = {"version": rt.__version__, "isa": library.rta_isa().decode(), "kernels": len(native.kernels())}
flags = set(Path("/proc/cpuinfo").read_text().split())
told["slow"] = told["isa"] == "portable" and ({"avx2", "fma"} <= flags or platform.machine() == "aarch64")
assert (package / "include" / "rtaccel.h").exists() and (package / "lib" / "cmake" / "rtaccel").is_dir()
head = rt.online.RLSHead(features=3, outputs=1, p0=100.0)
weights = np.array([1.0, -2.0, 0.5], np.float32)
rng = np.random.default_rng(0)
for _ in range(200):
    phi = rng.standard_normal(3).astype(np.float32)
    head.learn_one(phi, np.array([phi @ weights], np.float32))
phi = np.ones(3, np.float32)
assert abs(float(np.asarray(head.predict_one(phi)).ravel()[0]) + 0.5) < 0.02
if len(sys.argv) > 1:
    told["models"], told["near"], told["other"] = 0, 0, []
    own = "cpu_" + told["isa"] == (Path(sys.argv[1]) / "set").read_text()
    for file in sorted(Path(sys.argv[1]).glob("*.rta")):
        given, model = np.load(file.with_suffix(".npz")), rt.load(file)
        out = np.full_like(given["y"], np.nan)
        model.bind(given["x"], out=out)()
        y = model(given["x"])
        if y.tobytes() == out.tobytes() == given["y"].tobytes():
            told["models"] += 1
        elif own or file.stem.endswith(("w8a8", "w4a8")) or not np.allclose(y, given["y"], rtol=1e-5, atol=1e-6):
            told["other"].append(file.stem)
        else:  # sums of float32 have another order with other vectors
            told["near"] += 1
told["foreign"] = [name for name in ("torch", "safetensors") if name in sys.modules]
print(json.dumps(told))
"""


def model_folder(work: Path) -> Path | None:
    """With models and what they answer, made by the rtaccel of this Python; None where there is no torch."""
    folder = work / "smoke"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    done = subprocess.run([sys.executable, "-c", MAKE_MODELS, folder], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return folder
    if "No module named" in done.stderr:
        return None
    raise SystemExit(f"the models for the trial: {done.stderr[-1500:]}")


def judged(done: subprocess.CompletedProcess[str], where: str) -> str:
    if done.returncode:
        raise SystemExit(f"{where}: ended with {done.returncode}: {done.stderr[-3000:]}")
    told = json.loads(done.stdout.splitlines()[-1])
    if told["foreign"] or told["slow"] or told.get("other") or not told["kernels"]:
        raise SystemExit(f"{where}: {told}")
    found = told.get("models")
    bits = f"the bits of {found} models" if found else "no models (torch is not here to make any)"
    bits += f", {told['near']} of float32 within 1e-5" if told.get("near") else ""
    return f"{where}: version {told['version']}, {told['isa']}, {told['kernels']} kernels, {bits}"


def _clean() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "RTACCEL_"))}


def _venv(interpreter: Interpreter, folder: Path) -> list[str | Path]:
    """`pip install` of a new environment."""
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([interpreter.path, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    return [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]


def _tried(folder: Path, model: Path | None, where: str) -> str:
    command: list[str | Path] = [folder / "bin" / "python", "-I", "-c", PROGRAM, *([model] if model else [])]
    return judged(subprocess.run(command, cwd=folder, env=_clean(), capture_output=True, text=True, check=False), where)


def of_sdist(sdist: Path, interpreter: Interpreter, work: Path, sets: str) -> str:
    """Built from nothing: in a new environment, pip gets what the build requires, and this machine's compiler compiles. sets: of
    instructions, separated by semicolons; all where it is empty."""
    folder = work / "tried" / f"sdist-{interpreter.name}"
    pip = _venv(interpreter, folder)
    only = [f"--config-settings=cmake.define.RTACCEL_ONLY={sets}"] if sets else []
    subprocess.run([*pip, *only, sdist], check=True, env=_clean())
    subprocess.run([*pip, "numpy"], check=True)
    return _tried(folder, model_folder(work), f"built from nothing on CPython {interpreter.name}")


def on_this_machine(
    wheel: Path, target: Target, here: Sequence[Interpreter], work: Path, *, network: bool, **_: object
) -> list[str]:
    """In a venv of every interpreter that the wheel is for."""
    model, lines = model_folder(work), []
    for interpreter in here:
        if not target.runs_on(interpreter.version):
            continue
        folder = work / "tried" / f"{target.name}-{interpreter.name}"
        pip = _venv(interpreter, folder)
        subprocess.run([*pip, wheel], check=True)
        if not network:
            lines.append(f"CPython {interpreter.name}: installed; not run, as NumPy would have to be downloaded")
            continue
        subprocess.run([*pip, "numpy"], check=True)
        lines.append(_tried(folder, model, f"CPython {interpreter.name}"))
    return lines


def on_arm(
    wheel: Path, target: Target, here: Sequence[Interpreter], work: Path, *, arm_root: Path | None, network: bool
) -> list[str]:
    """Under QEMU with the Python of an unpacked arm64 system, on a core with dot products and on one without."""
    if arm_root is None or not network or shutil.which("qemu-aarch64") is None:
        return ["not run: it takes qemu-aarch64, --arm-root (release/arm64_root.sh) and NumPy from the network"]
    python = (arm_root / "usr" / "bin" / "python3").resolve()
    version = (int(python.name.split(".")[0][-1]), int(python.name.split(".")[1]))
    if not target.runs_on(version):
        return [f"not run: {python.name} is what --arm-root has"]
    model = model_folder(work)
    site = work / "tried" / f"{target.name}-{python.name}"
    shutil.rmtree(site, ignore_errors=True)
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in (17, 27, 28)]
    words = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--target", str(site)]
    words += [*platforms, "--python-version", f"{version[0]}.{version[1]}"]
    subprocess.run([sys.executable, "-m", "pip", "install", *words, wheel, "numpy"], check=True)
    lines = []
    for cpu in ("cortex-a53", "cortex-a76"):
        command: list[str | Path] = ["qemu-aarch64", "-L", arm_root, "-cpu", cpu, "-E", f"PYTHONPATH={site}", python]
        command += ["-S", "-c", PROGRAM, *([model] if model else [])]
        done = subprocess.run(command, cwd=site, env=_clean(), capture_output=True, text=True, check=False)
        lines.append(judged(done, f"{python.name} on {cpu}"))
    return lines
