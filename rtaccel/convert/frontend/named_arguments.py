"""Example inputs by name, as tokenizers give them: the model then takes exactly these arguments, in their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from inspect import Parameter, Signature
from typing import Any

from torch import nn

from rtaccel.convert.frontend.batches import signature_of
from rtaccel.convert.frontend.private_copy import private_copy
from rtaccel.core.errors import ShapeError


def by_names(original: Any, model: Any, example: Any, calibration: Any) -> tuple[Any, Any, Any, Any]:
    """(original, model, example inputs, calibration) with arguments in a row; as they are where the example is none by name.

    original: what the model was made of, where that is TorchScript; else the model. The model becomes a copy whose forward takes
    the named arguments, keyword-only ones too; its layers keep their names. Calibration batches may be dicts of the same names.
    Raises ShapeError for names that the model's forward has not, or does not take alone.
    """
    if not isinstance(example, Mapping) or not isinstance(model, nn.Module):
        return original, model, example, calibration
    signature = signature_of(model)
    names = [str(name) for name in example]
    if signature is None or not names:
        raise ShapeError(
            "compile", "example inputs by name", "a tuple of example inputs", "Pass rt.compile(model, (x,))."
        )
    try:
        signature.bind(**{name: example[name] for name in names})
    except TypeError as error:
        expected = f"arguments of {type(model).__name__}.forward: {', '.join(signature.parameters)}"
        raise ShapeError(
            "compile", f"example inputs by name, {' '.join(names)}: {error}", expected, "Rename them."
        ) from error
    names = sorted(names, key=lambda name: _place(signature, name))
    taking = _taking(private_copy("compile", model), names)
    first = taking if original is model else _Script(original, names)
    return first, taking, tuple(example[name] for name in names), _Rows.of(calibration, names)


def _place(signature: Signature, name: str) -> int:
    """In the order of the model's own forward, those of `**kwargs` last."""
    known = list(signature.parameters)
    return known.index(name) if name in known else len(known)


def _taking(model: nn.Module, names: list[str]) -> nn.Module:
    """The model, changed: its forward takes these arguments and no others."""
    kind, own = type(model), model.__dict__.pop("forward", None)
    call = kind.forward if own is None else getattr(own, "__func__", None)
    if call is None:
        raise ShapeError(
            "compile", f"{kind.__name__} with a forward that is set from outside", "a tuple of example inputs",
            "Pass rt.compile(model, (x,)).",
        )  # fmt: skip

    def forward(self: nn.Module, *values: Any) -> Any:
        return call(self, **dict(zip(names, values, strict=True)))

    places = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in ("self", *names)]
    forward.__signature__ = Signature(places)  # type: ignore[attr-defined]
    made: Any = type(kind)
    model.__class__ = made(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
    return model


class _Script(nn.Module):
    """TorchScript, called by names."""

    def __init__(self, original: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.original, self.names = original, names
        self.eval()

    def forward(self, *values: Any) -> Any:
        return self.original(**dict(zip(self.names, values, strict=True)))


class _Rows:
    """Batches by name as tuples; others as they are."""

    def __init__(self, batches: Iterable[Any], names: list[str]) -> None:
        self._batches, self._names = batches, names

    @classmethod
    def of(cls, calibration: Any, names: list[str]) -> Any:
        if isinstance(calibration, Mapping):  # one batch
            calibration = [calibration]
        plain = calibration is None or not isinstance(calibration, Iterable) or hasattr(calibration, "shape")
        return calibration if plain else cls(calibration, names)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            if not isinstance(batch, Mapping):
                yield batch
                continue
            missing = [name for name in self._names if name not in batch]
            if missing:
                raise ShapeError(
                    "calibration", f"a batch without {', '.join(missing)}", f"{', '.join(self._names)}, as the example has",
                    "Add them.",
                )  # fmt: skip
            yield tuple(batch[name] for name in self._names)
