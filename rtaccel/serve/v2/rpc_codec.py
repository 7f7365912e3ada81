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
from rtaccel.serve.v2.shared_memory import Places, Regions, Slice, places_of, write

CONTENTS = {"FP32": "fp32_contents", "INT8": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
            "UINT8": "uint_contents", "BOOL": "bool_contents"}  # fmt: skip
"""Datatype -> the field of typed contents that holds it."""
NUMBERS = {"BOOL": 1, "UINT8": 2, "INT8": 6, "INT32": 8, "INT64": 9, "FP32": 11}
"""Datatype -> its number in a model's configuration."""

Response = MESSAGES["ModelInferResponse"]


def decode(model: ServedModel, message: Any, timeout_us: int | None, regions: Regions) -> Request:
    """The request that a message is. timeout_us: gRPC's own deadline. regions: where tensors may lie. Raises typed errors."""
    raw, entries = message.raw_input_contents, message.inputs
    made: list[np.ndarray | None] = [None] * len(model.inputs)
    used = 0
    for entry in entries:
        number = model.index.get(entry.name)
        if number is None or made[number] is not None:
            raise unknown_tensor(model, "input", entry.name, number is not None)
        port = model.inputs[number]
        shape = port.check(entry.datatype, tuple(entry.shape))
        place = _slice(entry) if entry.parameters else None
        if place is not None:
            if entry.HasField("contents"):
                raise FormatError("infer", f"input {entry.name!r} in a region and in the request", "one of them",
                                  "Send it once.")  # fmt: skip
            made[number] = regions.at(place).read(place, port, shape)
            continue
        if raw:
            if used < len(raw):
                made[number] = port.from_bytes(raw[used], shape)
            used += 1
            continue
        typed = getattr(entry.contents, CONTENTS[port.datatype])
        if sum(len(value) for _, value in entry.contents.ListFields()) != len(typed):
            raise FormatError("infer", f"contents of input {entry.name!r} in another field", CONTENTS[port.datatype],
                              "Fill that field alone.")  # fmt: skip
        made[number] = port.from_values(list(typed), shape)
    if raw and used != len(raw):
        got = f"{len(raw)} raw contents for {used} inputs"
        raise FormatError("infer", got, "one for each that is in no region", "All raw, or none.")
    parameters = parameters_of(plain(message.parameters) if message.parameters else {})
    if timeout_us is not None:
        parameters = parameters._replace(timeout_us=sooner(parameters.timeout_us, timeout_us))
    inputs = complete(model, made)
    outputs, slices = _outputs(model, message.outputs)
    places: Places = ()
    if any(slices):
        places = places_of([model.outputs[i] for i in outputs], model.samples(inputs), slices, regions)
    return Request(inputs, outputs, parameters, message.id, places)


def encode(model: ServedModel, request: Request, outs: tuple[np.ndarray, ...]) -> Any:
    """Outputs as raw contents, little-endian."""
    answer = Response(model_name=model.name, model_version=VERSION, id=request.id)
    chosen = [outs[number] for number in request.outputs]
    for number, array, place in zip(request.outputs, chosen, write(request.places, chosen)):
        port = model.outputs[number]
        entry = answer.outputs.add(name=port.name, datatype=port.datatype, shape=array.shape)
        if place is None:
            answer.raw_output_contents.append(array.tobytes())
            continue
        answer.raw_output_contents.append(b"")  # clients count them
        for key, value in place.parameters.items():
            if isinstance(value, str):
                entry.parameters[key].string_param = value
            else:
                entry.parameters[key].int64_param = value
    return answer


def config(described: Mapping[str, Any]) -> Any:
    """The configuration that REST gives as JSON, as a message."""
    plain = dict(described)
    for key in ("input", "output"):
        plain[key] = [{**e, "data_type": NUMBERS[e["data_type"].removeprefix("TYPE_")]} for e in described[key]]
    if "sequence_batching" in plain:
        plain["sequence_batching"] = {k: v for k, v in plain["sequence_batching"].items() if k != "direct"}
    return MESSAGES["ModelConfigResponse"](config=plain)


def _outputs(model: ServedModel, wanted: Any) -> tuple[tuple[int, ...], tuple[Slice | None, ...]]:
    if not wanted:
        return tuple(range(len(model.outputs))), ()
    numbers: list[int] = []
    slices: list[Slice | None] = []
    for entry in wanted:
        number = model.output_index.get(entry.name)
        if number is None or number in numbers:
            raise unknown_tensor(model, "output", entry.name, number is not None)
        slices.append(_slice(entry) if entry.parameters else None)
        numbers.append(number)
    return tuple(numbers), tuple(slices)


def _slice(entry: Any) -> Slice | None:
    given = plain(entry.parameters)
    refuse_tensor_parameters(given)
    return Slice.of(entry.name, given)


def plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a message by name."""
    made = {}
    for key, value in parameters.items():
        which = value.WhichOneof("parameter_choice")
        if which is not None:
            made[key] = getattr(value, which)
    return made
