"""A model read from a path, bytes or a proto, checked before anything is made of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtaccel.core.errors import BackendUnavailable, FormatError, UnsupportedProblem

if TYPE_CHECKING:
    import onnx

MIN_OPSET = 7
"""Of the default domain. Older files broadcast by attributes; the package brings them up where it can."""


def package() -> Any:
    """The `onnx` package, which reads files. Raises BackendUnavailable where it is not installed."""
    try:
        import onnx
        import onnx.checker
        import onnx.inliner
        import onnx.numpy_helper
        import onnx.shape_inference
    except ImportError as error:
        raise BackendUnavailable(
            "onnx", f"no package onnx ({error})", "the package that reads and writes ONNX files",
            "Install it: pip install 'rtaccel[onnx]'.",
        ) from error  # fmt: skip
    return onnx


def load(source: Any) -> onnx.ModelProto:
    """The model, with its external data, local functions written out. Raises FormatError for what is no valid model."""
    onnx = package()
    if isinstance(source, (str, os.PathLike)):
        model = _read(onnx, Path(source))
    elif isinstance(source, (bytes, bytearray, memoryview)):
        model = _parsed(onnx, bytes(source))
    elif isinstance(source, onnx.ModelProto):
        model = onnx.ModelProto()
        model.CopyFrom(source)  # the caller's own is left alone
        _refuse_external(onnx, model)
        _check(onnx, model, "the proto")
    else:
        raise FormatError(
            "from_onnx", type(source).__name__, "a path, the bytes of a model, or an onnx.ModelProto", "Pass one."
        )
    if opset_of(model) < MIN_OPSET:
        model = _newer(onnx, model)
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def opset_of(model: onnx.ModelProto) -> int:
    """Of the default domain."""
    found = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if not found:  # of operators of other domains alone
        return int(package().defs.onnx_opset_version())
    return found[0]


def _newer(onnx: Any, model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx.version_converter

    try:
        return onnx.version_converter.convert_version(model, 13)
    except Exception as error:
        raise UnsupportedProblem(
            "from_onnx", f"opset {opset_of(model)}, which the package onnx does not bring up: {_first_line(error)}",
            f"opset {MIN_OPSET} or newer", "Export the model again with a newer opset.",
        ) from error  # fmt: skip


def _read(onnx: Any, path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise FormatError("from_onnx", f"{path}, which is no file", "the path of an .onnx file", "Check the path.")
    model = _parsed(onnx, path.read_bytes(), str(path))
    if _external(onnx, model):  # resolved, and held to stay inside the folder, by the package
        _check(onnx, str(path), str(path))
        try:
            onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
        except Exception as error:
            raise FormatError(
                "from_onnx", f"external data of {path}: {_first_line(error)}", "the files that it names, beside it",
                "Keep the data files in the model's folder.",
            ) from error  # fmt: skip
        return model
    _check(onnx, model, str(path))
    return model


def _parsed(onnx: Any, data: bytes, name: str = "the bytes") -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:
        raise FormatError(
            "from_onnx", f"{name}: {_first_line(error)}", "a serialized ONNX model", "Check that the file is whole."
        ) from error
    if name == "the bytes":
        _refuse_external(onnx, model)
        _check(onnx, model, name)
    return model


def _external(onnx: Any, model: onnx.ModelProto) -> bool:
    from onnx.external_data_helper import _get_all_tensors, uses_external_data

    return any(uses_external_data(tensor) for tensor in _get_all_tensors(model))


def _refuse_external(onnx: Any, model: onnx.ModelProto) -> None:
    if _external(onnx, model):
        raise FormatError(
            "from_onnx", "a model whose weights are in other files", "a path, beside which they are",
            "Pass the path of the .onnx file.",
        )  # fmt: skip


def _check(onnx: Any, model: Any, name: str) -> None:
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        raise FormatError(
            "from_onnx", f"{name}: {_first_line(error)}", "a model that onnx.checker passes", "Export it again."
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:300]
