"""Which function writes a stage of an operator: one for each, in the file of its family."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import TYPE_CHECKING

from rtaccel.core.stage import Stage

if TYPE_CHECKING:
    from rtaccel.deploy.onnx.writer import Writer

Form = Callable[["Writer", Stage], None]

_FORMS: dict[str, Form] = {}


def form(*operators: str) -> Callable[[Form], Form]:
    """Registers a function that writes stages of operators."""

    def register(write: Form) -> Form:
        for name in operators:
            _FORMS[name] = write
        return write

    return register


def forms() -> dict[str, Form]:
    """Operator -> what writes it."""
    if not _FORMS:
        from rtaccel.deploy.onnx import forms as families

        for found in pkgutil.iter_modules(families.__path__):
            importlib.import_module(f"{families.__name__}.{found.name}")
    return _FORMS
