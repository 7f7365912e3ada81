"""Requests and answers of gRPC: protobuf to `Request` and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rtaccel.core.errors import FormatError
from rtaccel.serve.v2.messages import MESSAGES
from rtaccel.serve.v2.repository import VERSION
from rtaccel.serve.v2.request import Request, parameters_of, refuse_tensor_parameters, sooner
from rtaccel.serve.v2.rest_body import complete, unknown_tensor
from rtaccel.serve.v2.served import ServedModel

CONTENTS = {"FP32": "fp32_contents", "INT8": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
            "UINT8": "uint_contents", "BOOL": "bool_contents"}  # fmt: skip
"""Datatype -> the field of typed contents that holds it."""
NUMBERS = {"BOOL": 1, "UINT8": 2, "INT8": 6, "INT32": 8, "INT64": 9, "FP32": 11}
"""Datatype -> its number in a model's configuration."""

Response = MESSAGES["ModelInferResponse"]


def decode(model: ServedModel, message: Any, timeout_us: int | None) -> Request:
    """The request that a message is. timeout_us: gRPC's own deadline. Raises typed errors."""
    raw, entries = message.raw_input_contents, message.inputs
    if raw and len(raw) != len(entries):
        raise FormatError(
            "infer", f"{len(raw)} raw contents for {len(entries)} inputs", "one for each", "All raw, or none."
        )
    made: list[np.ndarray | None] = [None] * len(model.inputs)
    for place, entry in enumerate(entries):
        number = model.index.get(entry.name)
        if number is None or made[number] is not None:
            raise unknown_tensor(model, "input", entry.name, number is not None)
        port = model.inputs[number]
        shape = port.check(entry.datatype, tuple(entry.shape))
        if entry.parameters:
            refuse_tensor_parameters(_plain(entry.parameters))
        if raw:
            made[number] = port.from_bytes(raw[place], shape)
            continue
        typed = getattr(entry.contents, CONTENTS[port.datatype])
        if sum(len(value) for _, value in entry.contents.ListFields()) != len(typed):
            raise FormatError("infer", f"contents of input {entry.name!r} in another field", CONTENTS[port.datatype],
                              "Fill that field alone.")  # fmt: skip
        made[number] = port.from_values(list(typed), shape)
    parameters = parameters_of(_plain(message.parameters) if message.parameters else {})
    if timeout_us is not None:
        parameters = parameters._replace(timeout_us=sooner(parameters.timeout_us, timeout_us))
    return Request(complete(model, made), _outputs(model, message.outputs), parameters, message.id)


def encode(model: ServedModel, request: Request, outs: tuple[np.ndarray, ...]) -> Any:
    """Outputs as raw contents, little-endian."""
    answer = Response(model_name=model.name, model_version=VERSION, id=request.id)
    for number in request.outputs:
        port, array = model.outputs[number], outs[number]
        answer.outputs.add(name=port.name, datatype=port.datatype, shape=array.shape)
        answer.raw_output_contents.append(array.tobytes())
    return answer


def config(described: Mapping[str, Any]) -> Any:
    """The configuration that REST gives as JSON, as a message."""
    plain = dict(described)
    for key in ("input", "output"):
        plain[key] = [{**e, "data_type": NUMBERS[e["data_type"].removeprefix("TYPE_")]} for e in described[key]]
    if "sequence_batching" in plain:
        plain["sequence_batching"] = {k: v for k, v in plain["sequence_batching"].items() if k != "direct"}
    return MESSAGES["ModelConfigResponse"](config=plain)


def _outputs(model: ServedModel, wanted: Any) -> tuple[int, ...]:
    if not wanted:
        return tuple(range(len(model.outputs)))
    numbers: list[int] = []
    for entry in wanted:
        number = model.output_index.get(entry.name)
        if number is None or number in numbers:
            raise unknown_tensor(model, "output", entry.name, number is not None)
        if entry.parameters:
            refuse_tensor_parameters(_plain(entry.parameters))
        numbers.append(number)
    return tuple(numbers)


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    made = {}
    for key, value in parameters.items():
        which = value.WhichOneof("parameter_choice")
        if which is not None:
            made[key] = getattr(value, which)
    return made
