"""The signature of a method of TorchScript, as of a function of Python."""

from __future__ import annotations

from inspect import Parameter, Signature
from typing import Any


def signature_of_method(schema: Any) -> tuple[Signature, tuple[str, ...]]:
    """The signature without the module itself, and the names of the types of its arguments."""
    parameters, kinds = [], []
    for i, argument in enumerate(schema.arguments[1:]):
        name = argument.name if argument.name.isidentifier() else f"argument_{i}"
        default = argument.default_value if argument.has_default_value() else Parameter.empty
        kind = Parameter.KEYWORD_ONLY if argument.kwarg_only else Parameter.POSITIONAL_OR_KEYWORD
        parameters.append(Parameter(name, kind, default=default))
        kinds.append(str(argument.type))
    return Signature(parameters), tuple(kinds)
