"""`rtaccel <verb>`: finds the verb's module, parses its arguments and turns typed errors into exit codes.

Exit codes: 0 all well; 1 a budget is not met; 2 wrong usage or another typed error, with a message and no traceback.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence
from types import ModuleType

import rtaccel.cli
from rtaccel import __version__
from rtaccel.core.errors import BudgetExceeded, RtaccelError

OK, OVER_BUDGET, USAGE = 0, 1, 2


def verb_names() -> list[str]:
    """Every module of this folder except this one and private ones."""
    names = (file.name for file in pkgutil.iter_modules(rtaccel.cli.__path__))
    return sorted(name.replace("_", "-") for name in names if name != "main" and not name.startswith("_"))


def _verb(name: str) -> ModuleType:
    return importlib.import_module(f"rtaccel.cli.{name.replace('-', '_')}")


def build_parser(names: Sequence[str]) -> argparse.ArgumentParser:
    """A parser that knows the verbs named; only these are imported."""
    parser = argparse.ArgumentParser(
        prog="rtaccel", description="Machine-learning inference inside a microsecond budget."
    )
    parser.add_argument("--version", action="version", version=f"rtaccel {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="<verb>", required=True)
    for name in names:
        module = _verb(name)
        child = verbs.add_parser(name, help=module.HELP, description=module.HELP)
        module.configure(child)
        child.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    known = verb_names()
    wanted = words[:1] if words and words[0] in known else known
    args = build_parser(wanted).parse_args(words)
    try:
        code = int(args.run(args))
        sys.stdout.flush()
        return code
    except BudgetExceeded as error:
        print(f"rtaccel {args.verb}: {error}", file=sys.stderr)
        return OVER_BUDGET
    except RtaccelError as error:
        print(f"rtaccel {args.verb}: error: {error}", file=sys.stderr)
        return USAGE
    except BrokenPipeError:  # the reader, `head` for example, has seen enough; nothing is left to say to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


if __name__ == "__main__":
    sys.exit(main())
