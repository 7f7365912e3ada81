"""Which numbers each scheme stores for a linear layer. A further scheme is a further entry."""

from __future__ import annotations

from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.scheme import Scheme
from rtaccel.nn.params.linear import LinearParams
from rtaccel.nn.params.linear_a16 import LinearBFloat16, LinearW8A16
from rtaccel.nn.params.linear_int4 import LinearW4A8, LinearW4A16
from rtaccel.nn.params.linear_w8a8 import LinearW8A8

FORMATS: dict[type[Scheme], type[LinearParams]] = {
    params.SCHEME: params for params in (LinearW8A8, LinearW8A16, LinearBFloat16, LinearW4A8, LinearW4A16)
}


def params_of(op: str, scheme: Scheme) -> type[LinearParams]:
    """Raises UnsupportedProblem for a scheme that stores a linear layer as it is."""
    found = FORMATS.get(type(scheme))
    if found is None:
        names = ", ".join(cls.name for cls in FORMATS)
        raise UnsupportedProblem(op, str(scheme), f"a scheme it can store: {names}", "Pass rt.W8A8().")
    return found
