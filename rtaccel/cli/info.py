"""`rtaccel info`: what can run here, and where not, why and what to do about it."""

from __future__ import annotations

import argparse
import json
from typing import Any

HELP = "list the backends with what is missing for each, the CPU's instruction sets and the versions"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    for name, (_, what) in FOLDERS.items():
        parser.add_argument(f"--{name}", action="store_true", help=f"print the folder of {what} alone")


FOLDERS = {
    "include-dir": ("include", "rtaccel.h and rtaccel.hpp"),
    "library-dir": ("", "librtaccel.so, on macOS librtaccel.dylib"),
    "cmake-dir": ("lib/cmake/rtaccel", "rtaccelConfig.cmake, for -Drtaccel_DIR="),
    "pkgconfig-dir": ("lib/pkgconfig", "rtaccel.pc, for PKG_CONFIG_PATH="),
}
"""What builds of C and C++ ask for: option -> (folder in the package, what is there)."""


def run(args: argparse.Namespace) -> int:
    for name, (folder, _) in FOLDERS.items():
        if getattr(args, name.replace("-", "_"), False):
            from pathlib import Path

            import rtaccel._native as native

            print(Path(native.__file__).parent / folder)
            return 0
    found = collect()
    print(json.dumps(found, indent=2, default=str) if args.json else render(found))
    return 0


def collect() -> dict[str, Any]:
    """The environment record and one entry per backend, the preferred one first."""
    from rtaccel.backends import backends
    from rtaccel.measure.machine.environment import environment

    entries = []
    for backend in backends().values():
        reason = backend.unavailable()
        entries.append(
            {
                "name": backend.name,
                "devices": [device for device in backend.devices if device != "cuda" or has_card()],
                "available": reason is None,
                "reason": reason,
                "remedy": None if reason is None else backend.remedy,
                "facts": dict(backend.facts()) if reason is None else {},
            }
        )
    from rtaccel.realtime.host import check

    found = {"environment": environment(), "backends": entries}  # after the backends: they may have loaded torch
    return {**found, "realtime": [finding.to_dict() for finding in check()]}


def has_card() -> bool:
    """Whether torch finds a CUDA device: a backend that could run on one is not ready on it without."""
    import torch

    return torch.cuda.is_available()


def render(found: dict[str, Any]) -> str:
    """The same for people."""
    from rtaccel.measure.machine.environment import describe

    rows = describe(found["environment"])
    width = max(len(label) for label, _ in rows)
    lines = [f"{label.ljust(width)}  {text}" for label, text in rows]
    lines += ["", "backends, the preferred one first"]
    width = max((len(entry["name"]) for entry in found["backends"]), default=0)
    for entry in found["backends"]:
        name = entry["name"].ljust(width)
        if entry["available"]:
            facts = ", ".join(f"{key} {value}" for key, value in entry["facts"].items())
            lines.append(f"  {name}  ready on {', '.join(entry['devices']) or 'no device that is here'}: {facts}")
        else:
            lines.append(f"  {name}  not here: {entry['reason']}")
            lines.append(f"  {' ' * width}  next: {entry['remedy']}")
    from rtaccel.realtime.host import HostFinding

    lines += ["", "for loops with microsecond deadlines (rt.realtime.check())"]
    lines += [f"  {line}" for one in found["realtime"] for line in str(HostFinding(**one)).splitlines()]
    return "\n".join(lines)
