"""What a figure depends on besides the code: the card and its clocks, the driver, how it is shared, the variables of CUDA.

Read from `nvidia-smi -q -x`, /proc and the environment; nothing is changed, and no CUDA context is made.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VARIABLES = (
    "CUDA_MODULE_LOADING", "CUDA_DEVICE_MAX_CONNECTIONS", "CUDA_LAUNCH_BLOCKING", "CUDA_VISIBLE_DEVICES",
    "CUDA_MPS_PIPE_DIRECTORY", "TRITON_CACHE_DIR", "RTACCEL_KERNELS", "RTACCEL_NO_JIT",
)  # fmt: skip
PLACES = {
    "card": "product_name", "uuid": "uuid", "mig": "mig_mode/current_mig", "persistence": "persistence_mode",
    "compute_mode": "compute_mode", "performance_state": "performance_state", "ecc": "ecc_mode/current_ecc",
    "sm_clock": "clocks/sm_clock", "memory_clock": "clocks/mem_clock",
    "sm_clock_max": "max_clocks/sm_clock", "memory_clock_max": "max_clocks/mem_clock",
    "application_clock": "applications_clocks/graphics_clock",
    "application_clock_default": "default_applications_clocks/graphics_clock",
    "memory_total": "fb_memory_usage/total", "memory_free": "fb_memory_usage/free",
    "temperature": "temperature/gpu_temp", "power_limit": "gpu_power_readings/current_power_limit",
}  # fmt: skip
"""Where nvidia-smi's XML has it."""

MPS_FOLDER, MPS_NAMES = (
    Path("/tmp/nvidia-mps"),
    ("nvidia-cuda-mps", "nvidia-cuda-mps-control", "nvidia-cuda-mps-server"),
)


def record(environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Of the first card. JSON values only; what is not known is not in it."""
    found = _smi()
    found["mps"] = mps()
    found["variables"] = {
        name: value for name in VARIABLES if (value := (environment or os.environ).get(name)) is not None
    }
    found["kernel"] = " ".join((os.uname().sysname, os.uname().release, os.uname().version))
    found["cpu"] = _cpu()
    found["cores"] = len(os.sched_getaffinity(0))
    return found


def _smi() -> dict[str, Any]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {"nvidia-smi": "not installed"}
    try:
        done = subprocess.run([tool, "-q", "-x"], capture_output=True, text=True, check=False, timeout=20)
        root = ElementTree.fromstring(done.stdout)
    except (OSError, subprocess.TimeoutExpired, ElementTree.ParseError) as error:
        return {"nvidia-smi": f"says nothing usable ({type(error).__name__})"}
    found: dict[str, Any] = {"driver": root.findtext("driver_version"), "driver_cuda": root.findtext("cuda_version")}
    card = root.find("gpu")
    if card is None:
        return {**found, "nvidia-smi": "sees no card"}
    found["cards"] = len(root.findall("gpu"))
    for name, place in PLACES.items():
        text = card.findtext(place)
        if text is not None and text.strip() not in ("N/A", "[N/A]", "Requested functionality has been deprecated"):
            found[name] = text.strip()
    reasons = card.find("clocks_event_reasons")
    reasons = card.find("clocks_throttle_reasons") if reasons is None else reasons
    if reasons is not None:
        found["clocks_held_by"] = [r.tag.split("_reason_")[-1] for r in reasons if r.text == "Active"]
    found["other_processes"] = [
        f"{p.findtext('pid')} {p.findtext('process_name')} {p.findtext('used_memory')}"
        for p in card.iter("process_info")
    ]
    return found


def mps() -> str:
    """Whether processes share the card through MPS: seen by its daemon, or by the pipe that clients look for."""
    daemons = []
    for entry in Path("/proc").glob("[0-9]*/comm"):
        try:
            name = entry.read_text().strip()
        except OSError:
            continue
        if name.startswith(MPS_NAMES[0][:15]):
            daemons.append(name)
    if daemons:
        return f"its daemon runs ({', '.join(sorted(set(daemons)))})"
    pipe = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", MPS_FOLDER))
    return f"no daemon, but the folder of its pipe is there ({pipe})" if pipe.exists() else "no"


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return os.uname().machine


def remarks(found: Mapping[str, Any]) -> list[str]:
    """What about the machine makes its figures less than they look, in sentences."""
    said = []
    if found.get("other_processes"):
        said.append("Other processes were on the card: " + "; ".join(found["other_processes"]) + ".")
    if str(found.get("mig", "")).lower() == "enabled":
        said.append("MIG is on: the figures are those of a part of the card.")
    if str(found.get("mps", "no")) != "no":
        said.append(f"MPS: {found['mps']}. Kernels of several processes may have run side by side.")
    if found.get("variables", {}).get("CUDA_LAUNCH_BLOCKING", "0") not in ("", "0"):
        said.append("CUDA_LAUNCH_BLOCKING is set: every launch waited for its end.")
    if str(found.get("persistence", "Enabled")).lower() == "disabled":
        said.append("Persistence mode is off: the driver may have unloaded the card between processes.")
    return [*said, clocks(found)] if "card" in found else said


def clocks(found: Mapping[str, Any]) -> str:
    """Whether the clocks were held, as far as the driver tells."""
    now, most = found.get("sm_clock", "not known"), found.get("sm_clock_max", "not known")
    set_to, default = found.get("application_clock"), found.get("application_clock_default")
    held = [r for r in found.get("clocks_held_by", ()) if r not in ("gpu_idle", "none")]
    if (set_to and default and set_to != default) or "applications_clocks_setting" in held:
        how = f"application clocks are set to {set_to or 'some value'}"
    else:
        how = "not locked as far as the driver tells"
    return f"Clocks of the multiprocessors: {now} of at most {most}; {how}; held by: {', '.join(held) or 'nothing'}."
