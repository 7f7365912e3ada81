"""Options that say something beside another one alone."""

from __future__ import annotations

import argparse
from typing import Any

from rtaccel.core.errors import FormatError


def settle(op: str, args: argparse.Namespace, needed: str, **defaults: Any) -> None:
    """Gives each option in `defaults` its default where it was left out, which argparse has as None.

    needed: names of options, "live" or "live follow", of which one must be there. Raises FormatError where an option was given
    without any of them: it would change nothing, and whoever wrote it thinks that it does.
    """
    others = needed.split()
    beside = any(getattr(args, other) for other in others)
    for name, default in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, default)
        elif not beside:
            given, wanted = written(name), " or ".join(map(written, others))
            raise FormatError(op, f"{given} without {wanted}", "both", f"Add {wanted}, or leave {given} out.")


def written(name: str) -> str:
    """As it is written on the command line."""
    return "--" + name.replace("_", "-")
