"""The interpreter of Triton without what it does again in every call; the numbers of a kernel are computed as before.

Triton puts interpreted functions in the place of those of `triton.language` at each launch, searches them again at each call of
a device function, and takes them away after the launch. A process that only interprets needs them once: that search is two
fifths of its time. A triton whose insides have other names is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton.language as tl
from triton.runtime import interpreter


class _Stays:
    """In the place of what would take the functions away."""

    def restore(self) -> None:
        pass


def quicken() -> bool:
    """For this process. False where this triton has other insides."""
    plain: Callable[[Any], Any] | None = getattr(interpreter, "_patch_lang", None)
    numpy_type: Callable[[Any], Any] | None = getattr(interpreter, "_get_np_dtype", None)
    if plain is None or numpy_type is None or not hasattr(interpreter, "_LangPatchScope"):
        return False
    stays, ready, patched, types = _Stays(), set[Any](), set[frozenset[str]](), dict[str, Any]()

    def patch_once(fn: Any) -> _Stays:
        if fn not in ready:
            languages = frozenset(name for name, m in (("tl", tl), ("core", tl.core)) if _sees(fn, m))
            if not languages or languages not in patched:  # without any, triton says what is missing
                plain(fn)
                patched.add(languages)
            ready.add(fn)
        return stays

    def type_of(given: Any) -> Any:
        found = types.get(given.name)
        if found is None:
            found = types[given.name] = numpy_type(given)
        return found

    interpreter._patch_lang, interpreter._get_np_dtype = patch_once, type_of
    return True


def _sees(fn: Any, module: Any) -> bool:
    return any(value is module for value in fn.__globals__.values())
