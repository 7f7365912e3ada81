"""`rtaccel explain`: every stage of a compiled model, the kernel chosen and why not the others."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from rtaccel.cli._common import target as _target

HELP = "compile a model and show every stage: the kernel chosen, those rejected and why, bytes and time"


def configure(parser: argparse.ArgumentParser) -> None:
    _target.add_target(parser)
    parser.add_argument("--no-times", action="store_true", help="leave the time of each stage out")
    parser.add_argument("--brief", action="store_true", help="leave the reasons out")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    target = _target.load_target(args.target)
    fast = _target.compile_target(target, args)
    if args.json:
        print(json.dumps(collect(target.text, fast, not args.no_times), indent=2))
    else:
        times = {"measure": not args.no_times} if hasattr(fast, "explain_lines") else {}
        print(fast.explain(verbose=not args.brief, **times))
    return 0


def collect(text: str, fast: Any, measure: bool) -> dict[str, Any]:
    """The same as JSON values. A model that was not captured has no stages and a reason."""
    from rtaccel.measure.machine.environment import environment

    found: dict[str, Any] = {"target": text, "weight_bytes": fast.weight_bytes}
    if hasattr(fast, "explain_lines"):
        packed, scratch = fast.plan_bytes
        found |= {"packed_bytes": packed, "scratch_bytes": scratch, "state_bytes": fast.state_bytes}
        found |= {"stages": [asdict(line) for line in fast.explain_lines(measure)], "not_captured": None}
    else:
        found |= {"stages": [], "not_captured": fast.reason}
    return found | {"environment": environment()}
