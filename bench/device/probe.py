"""Whether there is a card that can be measured, found out in a process of its own: a driver may hang, and a context may fail.

    python -m bench.device.probe

Prints one JSON object: {"reason": null or why not, "capability": 90, "multiprocessors": 132, ...}.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

LIMIT_S = 60.0


def driver_cuda() -> tuple[int, int] | str:
    """(major, minor) of the newest CUDA that the driver knows, or why there is none."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver is installed (libcuda.so.1 is not there)"
    status = library.cuInit(0)
    if status:
        return f"the NVIDIA driver does not start (cuInit says {status})"
    version = ctypes.c_int()
    if library.cuDriverGetVersion(ctypes.byref(version)):
        return "the NVIDIA driver does not tell its version"
    return version.value // 1000, version.value % 1000 // 10


def too_old(driver: tuple[int, int], built_for: str) -> str | None:
    """Why a driver does not do for a torch that is built for this CUDA; one of the same major version does."""
    if driver[0] >= int(built_for.split(".")[0]):
        return None
    return (
        f"the driver knows CUDA up to {driver[0]}.{driver[1]}, and torch is built for {built_for}: "
        "install a newer driver, or a torch that is built for this one"
    )


def look() -> dict[str, Any]:
    missing = [name for name in ("torch", "triton") if importlib.util.find_spec(name) is None]
    if missing:
        return {"reason": f"{' and '.join(missing)} not installed"}
    import torch

    if torch.version.cuda is None:
        return {"reason": f"torch {torch.__version__} is built without CUDA"}
    driver = driver_cuda()
    if isinstance(driver, str):
        return {"reason": driver}
    old = too_old(driver, torch.version.cuda)
    if old is not None:
        return {"reason": old}
    try:
        about = torch.cuda.get_device_properties(0)
        torch.ones(1, device="cuda").item()
    except (RuntimeError, AssertionError) as error:
        return {"reason": f"the card cannot be used: {str(error).splitlines()[0]}"}
    capability = 10 * about.major + about.minor
    reason = (
        None
        if capability >= 80
        else f"{about.name} has compute capability {about.major}.{about.minor}; the kernels need 8.0"
    )
    return {
        "reason": reason, "card": about.name, "capability": capability, "multiprocessors": about.multi_processor_count,
        "torch": torch.__version__, "torch_cuda": torch.version.cuda, "driver_cuda": ".".join(map(str, driver)),
    }  # fmt: skip


def probe(limit_s: float = LIMIT_S, command: tuple[str, ...] = ("-m", "bench.device.probe")) -> dict[str, Any]:
    """What a process of its own finds out; with a reason where it hangs or breaks."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    try:
        done = subprocess.run(
            [sys.executable, *command], env=environment, capture_output=True, text=True, check=False, timeout=limit_s
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found
    except subprocess.TimeoutExpired:
        return {"reason": f"the card does not answer within {limit_s:g} s"}
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {"reason": f"looking for the card broke: {last}"}


if __name__ == "__main__":
    print(json.dumps(look()))
