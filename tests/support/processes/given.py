"""What a command line asks of the interpreter, and the variables that decide what torch is when it is imported."""

from __future__ import annotations

import os

AT_IMPORT = (
    "CUDA", "GOMP_", "KMP_", "LD_", "MALLOC_", "MKL_", "NUMBA_", "OMP_", "OPENBLAS_", "PYTHON", "PYTORCH_", "TORCH", "TRITON_",
)  # fmt: skip
"""Variables with these names are read while libraries are loaded. A command with others of them is not forked."""
LATER = ("PYTHONPATH", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK")
"""But these are read when they are used, and libraries set some of them themselves."""


def parsed(words: list[str]) -> tuple[list[str], str, str, list[str]] | None:
    """As (filters of warnings, one of -c, -m and script, its text, its arguments). None: options that a fork cannot have."""
    filters: list[str] = []
    rest = list(words)
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if option in ("-c", "-m") and rest:
            return filters, option, rest[0], rest[1:]
        if option != "-W" or not rest:
            return None
        filters.append(rest.pop(0))
    return (filters, "script", rest[0], rest[1:]) if rest else None


def read_at_import(environment: dict[str, str]) -> dict[str, str]:
    return {k: v for k, v in environment.items() if k.startswith(AT_IMPORT) and k not in LATER}


def search_path(kind: str, text: str, environment: dict[str, str], own: list[str]) -> list[str]:
    """Of the modules, as the interpreter would begin with it. own: that of an interpreter without PYTHONPATH."""
    first = {"-c": "", "-m": os.getcwd(), "script": os.path.dirname(os.path.realpath(text))}[kind]
    named = environment.get("PYTHONPATH")
    more = [os.path.abspath(part) for part in named.split(os.pathsep)] if named else []
    return [first, *more, *own]
