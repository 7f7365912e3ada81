"""`rtaccel <verb>`: finds the verb's module, parses its arguments and turns typed errors into exit codes.

Exit codes: see EXIT_CODES. An error that is a fault of rtaccel itself ends with 70 (EX_SOFTWARE) and its traceback, for
Python's own 1 would say that a budget failed.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import pkgutil
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

import rtaccel.cli
from rtaccel import __version__
from rtaccel.core.errors import BudgetExceeded, RtaccelError

OK, OVER_BUDGET, USAGE, USERS_CODE, FAULT, INTERRUPTED = 0, 1, 2, 3, 70, 130

REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENAMETOOLONG)
"""What a system says of permissions, disks and paths, which is no fault of rtaccel."""

EXIT_CODES = (
    "exit codes: 0 done, and every budget held; 1 a budget failed or is undecided; 2 wrong usage, or what was asked for is not "
    "possible here; 3 your own code raised (its frames are shown); 130 interrupted with Ctrl-C; 70 a fault of rtaccel"
)
"""The end of every help text."""


def verb_names() -> list[str]:
    """Every module of this folder except this one and private ones."""
    names = (file.name for file in pkgutil.iter_modules(rtaccel.cli.__path__))
    return sorted(name.replace("_", "-") for name in names if name != "main" and not name.startswith("_"))


def _verb(name: str) -> ModuleType:
    return importlib.import_module(f"rtaccel.cli.{name.replace('-', '_')}")


def build_parser(names: Sequence[str]) -> argparse.ArgumentParser:
    """A parser that knows the verbs named; only these are imported."""
    parser = argparse.ArgumentParser(
        prog="rtaccel", description="Machine-learning inference inside a microsecond budget.", epilog=EXIT_CODES
    )
    parser.add_argument("--version", action="version", version=f"rtaccel {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="<verb>", required=True)
    for name in names:
        module = _verb(name)
        child = verbs.add_parser(name, help=module.HELP, description=module.HELP, epilog=EXIT_CODES)
        module.configure(child)
        child.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    verb = "rtaccel"
    try:
        known = verb_names()
        wanted = words[:1] if words and words[0] in known else known
        args = build_parser(wanted).parse_args(words)
        verb = f"rtaccel {args.verb}"
        code = int(args.run(args))
        sys.stdout.flush()
        return code
    except BudgetExceeded as error:
        print(f"{verb}: {error}", file=sys.stderr)
        return OVER_BUDGET
    except RtaccelError as error:
        print(f"{verb}: error: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print(f"{verb}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader, `head` for example, has seen enough; nothing is left to say to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        from rtaccel.cli._common.user_code import raised_by_user, told

        if raised_by_user(error):
            print(f"{verb}: your code raised\n{told(error)}", file=sys.stderr)
            return USERS_CODE
        if isinstance(error, OSError) and error.errno in REFUSED:
            print(
                f"{verb}: error: got {error}; expected a path that can be used, and room. Look at it.", file=sys.stderr
            )
            return USAGE
        traceback.print_exc()
        print(f"{verb}: this is a fault of rtaccel, not of yours; please report it with these lines", file=sys.stderr)
        return FAULT


if __name__ == "__main__":
    sys.exit(main())
