"""Which numbers each scheme stores for a linear layer: the classes with a SCHEME in the files linear_*.py of this folder."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.scheme import Scheme
from rtaccel.nn import params
from rtaccel.nn.params.linear import LinearParams


def _found() -> Iterator[type[LinearParams]]:
    for file in pkgutil.iter_modules(params.__path__):
        if file.name.startswith("linear_"):
            module = importlib.import_module(f"{params.__name__}.{file.name}")
            for cls in vars(module).values():
                if isinstance(cls, type) and issubclass(cls, LinearParams) and "SCHEME" in vars(cls):
                    yield cls


FORMATS: dict[type[Scheme], type[LinearParams]] = {params.SCHEME: params for params in _found()}


def params_of(op: str, scheme: Scheme) -> type[LinearParams]:
    """Raises UnsupportedProblem for a scheme that stores a linear layer as it is."""
    found = FORMATS.get(type(scheme))
    if found is None:
        names = ", ".join(sorted(cls.name for cls in FORMATS))
        raise UnsupportedProblem(op, str(scheme), f"a scheme it can store: {names}", "Pass rt.W8A8().")
    return found


def refuse_rounding(op: str, scheme: Scheme) -> None:
    """Raises UnsupportedProblem where a scheme asks for more than one layer and its weights can give."""
    for name, plain in (("rounding", "nearest"), ("balance", None)):
        value = getattr(scheme, name, plain)
        if value != plain:
            step = "Use rt.quantize_ with calibration data." if name == "rounding" else "Use rt.compile."
            raise UnsupportedProblem(op, f"{name}={value!r} for a layer alone", f"{name}={plain!r}", step)
