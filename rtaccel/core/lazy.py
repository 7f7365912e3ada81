"""Attributes of a package that are imported when they are first asked for, so that importing the package stays cheap."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any


def attributes(package: str, home: Mapping[str, str], rooms: Collection[str] = ()) -> Callable[[str], Any]:
    """The `__getattr__` of a package. home: name -> the module that has it; rooms: packages inside, by their names.

    What was found once is an ordinary attribute of the package from then on.
    """

    def find(name: str) -> Any:
        if name in home:
            value = getattr(importlib.import_module(home[name]), name)
        elif name in rooms:
            value = importlib.import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    return find
