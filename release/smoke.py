"""Tries a wheel in an environment of its own with NumPy alone: the model's bits, the C library, a learner."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from release.matrix import Interpreter, Target

MAKE_MODEL = """
import sys
from pathlib import Path
import numpy as np, torch
import rtaccel as rt
folder = Path(sys.argv[1])
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(24, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8)).eval()
fast = rt.compile(net, torch.randn(1, 24), "w8a8", calibration=[torch.randn(256, 24)])
x = torch.randn(5, 24)
np.savez(folder / "smoke.npz", x=x.numpy(), y=fast(x).numpy())
rt.save(fast, folder / "smoke.rta")
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
    given = np.load(Path(sys.argv[1]) / "smoke.npz")
    model = rt.load(Path(sys.argv[1]) / "smoke.rta")
    told["bits"] = model(given["x"]).tobytes() == given["y"].tobytes()
    out = np.full_like(given["y"], np.nan)
    step = model.bind(given["x"], out=out)
    step()
    assert out.tobytes() == given["y"].tobytes()
told["foreign"] = [name for name in ("torch", "safetensors") if name in sys.modules]
print(json.dumps(told))
"""


def model_folder(work: Path) -> Path | None:
    """With a model and what it answers, made by the rtaccel of this Python; None where there is no torch."""
    folder = work / "smoke"
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([sys.executable, "-c", MAKE_MODEL, folder], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return folder
    if "No module named" in done.stderr:
        return None
    raise SystemExit(f"the model for the trial: {done.stderr[-1500:]}")


def judged(done: subprocess.CompletedProcess[str], where: str) -> str:
    if done.returncode:
        raise SystemExit(f"{where}: ended with {done.returncode}: {done.stderr[-3000:]}")
    told = json.loads(done.stdout.splitlines()[-1])
    if told["foreign"] or told["slow"] or told.get("bits") is False or not told["kernels"]:
        raise SystemExit(f"{where}: {told}")
    bits = "the model's bits" if "bits" in told else "no model (torch is not here to make one)"
    return f"{where}: version {told['version']}, {told['isa']}, {told['kernels']} kernels, {bits}"


def _clean() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "RTACCEL_"))}


def on_this_machine(
    wheel: Path, target: Target, here: Sequence[Interpreter], work: Path, *, network: bool, **_: object
) -> list[str]:
    """In a venv of every interpreter that the wheel is for."""
    model, lines = model_folder(work), []
    for interpreter in here:
        if not target.runs_on(interpreter.version):
            continue
        folder = work / "tried" / f"{target.name}-{interpreter.name}"
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([interpreter.path, "-m", "venv", folder], check=True)
        pip: list[str | Path] = [
            folder / "bin" / "python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ]
        subprocess.run([*pip, wheel], check=True)
        if not network:
            lines.append(f"CPython {interpreter.name}: installed; not run, as NumPy would have to be downloaded")
            continue
        subprocess.run([*pip, "numpy"], check=True)
        command: list[str | Path] = [folder / "bin" / "python", "-I", "-c", PROGRAM, *([model] if model else [])]
        done = subprocess.run(command, cwd=folder, env=_clean(), capture_output=True, text=True, check=False)
        lines.append(judged(done, f"CPython {interpreter.name}"))
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
