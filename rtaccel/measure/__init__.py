"""Measuring against a budget: clocks, order statistics, verdicts, the machine's record, and the report.

The package is callable: `rtaccel.measure(fn, inputs, budget=...)` is `rtaccel.measure.latency.measure`. A package and
a function share the name, and a submodule that happens to be imported first must not hide the function.
Importing the package imports none of its modules, and no numpy and no torch.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from rtaccel.measure.latency import measure

        return measure(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
