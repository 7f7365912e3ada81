"""Where data lies: a named folder, else one in RTACCEL_TEST_DATA, else in shared/data beside the copy of the repository. And what
is said of a file that is not what it should be."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar
from zipfile import BadZipFile

from examples._shared.outcome import Missing

P = ParamSpec("P")
T = TypeVar("T")

FAULTS = (OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError, BadZipFile)
"""What reading a file raises that ends early, or has other columns or names."""


def reads(form: str) -> Callable[[Callable[Concatenate[Path, P], T]], Callable[Concatenate[Path, P], T]]:
    """Of a function whose first argument is a path: where it is no file of this form, Missing says so, with what was wrong."""

    def of(function: Callable[Concatenate[Path, P], T]) -> Callable[Concatenate[Path, P], T]:
        @functools.wraps(function)
        def read(path: Path, /, *args: P.args, **named: P.kwargs) -> T:
            try:
                return function(path, *args, **named)
            except FileNotFoundError as error:
                raise Missing(f"no {path}, which is {form}: put it there, or pass --data FOLDER.") from error
            except FAULTS as error:
                told = str(error).strip().partition("\n")[0].partition(";")[0].removesuffix(":")
                said = f"no {told}" if isinstance(error, KeyError) else told or type(error).__name__
                raise Missing(f"{path} is not {form} ({said}): take it anew, or repair it.") from error

        return read

    return of


def folder(named: Path | None, name: str, files: tuple[str, ...], source: str) -> Path:
    """The folder that has one of these files. Raises Missing, with where the data comes from."""
    root = Path(os.environ.get("RTACCEL_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data")
    found = named if named is not None else root / name
    if named is None and not root.is_dir():
        raise Missing(f"no data: {source}, then pass --data FOLDER.")
    if not any((found / file).exists() for file in files):
        raise Missing(f"no {' or '.join(files)} in {found}: {source}, then pass --data FOLDER.")
    return found
