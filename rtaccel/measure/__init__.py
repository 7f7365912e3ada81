"""Measuring against a budget: clocks, order statistics, verdicts, the machine's record, and the report.

The package is callable: `rtaccel.measure(fn, inputs, budget=...)` is `rtaccel.measure.latency.measure`. A package and
a function share the name, and a submodule that happens to be imported first must not hide the function.
Importing the package imports none of its modules, and no numpy and no torch; `help` and `inspect.signature` do.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inspect import Signature

_ABOUT = __doc__


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from rtaccel.measure.latency import measure

        return measure(*args, **kwargs)

    @property
    def __signature__(self) -> Signature:
        from inspect import signature

        from rtaccel.measure.latency import measure

        return signature(measure)

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        """What `help(rtaccel.measure)` shows: of the package, and of the function."""
        from inspect import getdoc

        from rtaccel.measure.latency import measure

        return f"{_ABOUT}\nrtaccel.measure{self.__signature__}\n\n{getdoc(measure)}\n"


sys.modules[__name__].__class__ = _CallablePackage
