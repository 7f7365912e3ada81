"""Bodies of REST: JSON, and tensors as bytes behind it (the extension for binary tensor data)."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.serve.v2.objects import each_key_once
from rtaccel.serve.v2.refusals import NotServed, TooLarge
from rtaccel.serve.v2.repository import VERSION
from rtaccel.serve.v2.request import Parameters, Request, parameters_of, refuse_tensor_parameters
from rtaccel.serve.v2.served import ServedModel
from rtaccel.serve.v2.shared_memory import Places, Regions, Slice, places_of, write

HEADER_LENGTH = "inference-header-content-length"
"""Header: so many bytes of the body are JSON, the tensors follow."""


MAX_HEADS = 256
"""Texts of JSON that a model keeps, decoded: a client that sends its tensors as bytes sends the same one again and again."""

_dumps = json.JSONEncoder(separators=(",", ":")).encode


class Wanted(NamedTuple):
    """What the answer is to hold: output numbers, for each whether as bytes, and where it is to be written instead."""

    outputs: tuple[int, ...]
    binary: tuple[bool, ...]
    slices: tuple[Slice | None, ...] = ()


class Head(NamedTuple):
    """The JSON of a request. inputs: for each (its number, shape, bytes behind the JSON, or None and its values or Slice)."""

    inputs: tuple[tuple[int, tuple[int, ...], int | None, Any], ...]
    parameters: Parameters
    id: str
    wanted: Wanted


def decompressed(body: bytes, encoding: str, most: int) -> bytes:
    """A body of Content-Encoding gzip or deflate. Raises TooLarge above `most` bytes, FormatError for damage."""
    if encoding.lower() in ("", "identity"):
        return body
    if encoding.lower() not in ("gzip", "deflate"):
        raise NotServed("infer", f"Content-Encoding {encoding[:40]!r}", "gzip, deflate or none", "Send it as it is.")
    stream = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        made = stream.decompress(body, most + 1)
    except zlib.error as error:
        raise FormatError("infer", f"a compressed body ({error})", "a whole one", "Send it again.") from None
    if len(made) > most:
        raise too_large(most)
    if not stream.eof:
        raise FormatError("infer", "a compressed body that is cut off", "a whole one", "Send it again.")
    return made


def too_large(most: int) -> TooLarge:
    return TooLarge("infer", "a larger body", f"{most} bytes at most", "Send less, or raise --max-body-bytes.")


def decode(model: ServedModel, body: bytes, header_length: str | None, regions: Regions) -> tuple[Request, Wanted]:
    """The request that a body is. regions: where tensors may lie instead. Raises typed errors that name what is wrong."""
    tail = memoryview(b"")
    head = body
    if header_length is not None:
        if len(header_length) > 12 or not header_length.isascii() or not header_length.isdigit():
            raise FormatError("infer", f"{HEADER_LENGTH} {header_length[:40]!r}", "a number of bytes", "Mend it.")
        length = int(header_length)
        if length > len(body):
            raise FormatError("infer", f"a body of {len(body)} bytes", f"{length} of JSON alone", "Send all of it.")
        head, tail = body[:length], memoryview(body)[length:]
    known: Head | None = model.heads.get(head)
    if known is None:
        known = _head(model, head)
        if all(size is not None or isinstance(values, Slice) for _, _, size, values in known.inputs):
            if len(model.heads) >= MAX_HEADS:
                model.heads.clear()
            if len(head) <= 4096:
                model.heads[head] = known
    inputs, wanted = _inputs(model, known, tail, regions), known.wanted
    places: Places = ()
    if wanted.slices:
        places = places_of([model.outputs[i] for i in wanted.outputs], model.samples(inputs), wanted.slices, regions)
    return Request(inputs, wanted.outputs, known.parameters, known.id, places), wanted


def _head(model: ServedModel, text: bytes) -> Head:
    given = json_object(text)
    inputs = _described(model, given.get("inputs"))
    parameters = mapping(given, "parameters")
    request_id = given.get("id", "")
    if not isinstance(request_id, str):
        raise FormatError("infer", f"id {str(request_id)[:40]!r}", "a text", "Pass a text.")
    wanted = _wanted(model, given.get("outputs"), parameters.get("binary_data_output", False) is True)
    return Head(inputs, parameters_of(parameters), request_id, wanted)


def encode(
    model: ServedModel, request: Request, wanted: Wanted, outs: tuple[np.ndarray, ...]
) -> tuple[bytes, int | None]:
    """(body, length of its JSON where tensors follow) of an answer. NaN and infinities in JSON are as Python writes them."""
    written = write(request.places, [outs[number] for number in wanted.outputs])
    if request.id or not all(wanted.binary) or request.places:
        head = _answer(model, request, wanted, outs, written)
    else:
        key = wanted, *(outs[number].shape for number in wanted.outputs)
        known = model.answer_heads.get(key)
        if known is None:
            if len(model.answer_heads) >= MAX_HEADS:
                model.answer_heads.clear()
            known = model.answer_heads[key] = _answer(model, request, wanted, outs, written)
        head = known
    if not any(wanted.binary):
        return head, None
    tensors = (outs[number].tobytes() for number, binary in zip(wanted.outputs, wanted.binary) if binary)
    return b"".join((head, *tensors)), len(head)


def _answer(
    model: ServedModel, request: Request, wanted: Wanted, outs: tuple[np.ndarray, ...], written: Sequence[Slice | None]
) -> bytes:
    described = []
    for number, binary, place in zip(wanted.outputs, wanted.binary, written):
        port, array = model.outputs[number], outs[number]
        entry: dict[str, Any] = {"name": port.name, "datatype": port.datatype, "shape": list(array.shape)}
        if place is not None:
            entry["parameters"] = place.parameters
        elif binary:
            entry["parameters"] = {"binary_data_size": array.nbytes}
        else:
            entry["data"] = port.to_values(array)
        described.append(entry)
    answer: dict[str, Any] = {"model_name": model.name, "model_version": VERSION, "outputs": described}
    if request.id:
        answer["id"] = request.id
    return _dumps(answer).encode()


def json_object(head: bytes) -> dict[str, Any]:
    """Raises FormatError for what is no JSON or no object, and for an object with a key twice."""
    try:
        given = json.loads(head, object_pairs_hook=each_key_once)
    except FormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise FormatError("infer", f"a body that is no JSON ({str(error)[:80]})", "a JSON object", "Mend it.") from None
    if not isinstance(given, dict):
        raise FormatError("infer", f"JSON of a {type(given).__name__}", "an object", "See the protocol.")
    return given


def mapping(entry: dict[str, Any], key: str) -> dict[str, Any]:
    """The object under a key; an empty one where there is none. Raises FormatError for something else."""
    found = entry.get(key, {})
    if not isinstance(found, dict):
        raise FormatError("infer", f"{key} as a {type(found).__name__}", "an object", "See the protocol.")
    return found


def _described(model: ServedModel, given: Any) -> tuple[tuple[int, tuple[int, ...], int | None, Any], ...]:
    """What the JSON says of each input, in the order of the text."""
    if not isinstance(given, list) or not all(isinstance(entry, dict) for entry in given):
        raise FormatError("infer", "inputs that are no list of objects", "one for each input", "See the protocol.")
    made: list[tuple[int, tuple[int, ...], int | None, Any]] = []
    for entry in given:
        name = entry.get("name")
        number = model.index.get(name) if isinstance(name, str) else None
        if number is None or any(number == other for other, *_ in made):
            raise unknown_tensor(model, "input", name, number is not None)
        shape = model.inputs[number].check(entry.get("datatype"), entry.get("shape"))
        parameters = mapping(entry, "parameters")
        refuse_tensor_parameters(parameters)
        place, size = Slice.of(name, parameters), parameters.get("binary_data_size")
        if place is not None:
            if size is not None or "data" in entry:
                raise FormatError("infer", f"input {name!r} in a region and in the request", "one of them",
                                  "Send it once.")  # fmt: skip
            made.append((number, shape, None, place))
            continue
        if size is not None and (type(size) is not int or size < 0):
            raise FormatError("infer", f"binary_data_size {str(size)[:40]} of input {name!r}", "a number of bytes",
                              "Mend it.")  # fmt: skip
        made.append((number, shape, size, None if size is not None else entry.get("data")))
    return tuple(made)


def _inputs(model: ServedModel, head: Head, tail: memoryview, regions: Regions) -> tuple[np.ndarray, ...]:
    made: list[np.ndarray | None] = [None] * len(model.inputs)
    first = 0
    for number, shape, size, values in head.inputs:
        port = model.inputs[number]
        if size is None:
            here = isinstance(values, Slice)
            made[number] = regions.at(values).read(values, port, shape) if here else port.from_values(values, shape)
            continue
        left = len(tail) - first
        if size > left:
            raise FormatError("infer", f"binary_data_size {size} of input {port.name!r}", f"at most the {left} bytes "
                              "that follow", "Send all of the tensor.")  # fmt: skip
        made[number] = port.from_bytes(tail[first : first + size], shape)
        first += size
    if first != len(tail):
        raise FormatError("infer", f"{len(tail) - first} bytes behind the tensors", "none", "Send nothing more.")
    return complete(model, made)


def complete(model: ServedModel, made: list[np.ndarray | None]) -> tuple[np.ndarray, ...]:
    """All inputs. Raises ShapeError where one is not there."""
    missing = [port.name for port, array in zip(model.inputs, made) if array is None]
    if missing:
        raise ShapeError("infer", f"no input {', '.join(missing)}", f"{len(made)} inputs", "Send all of them.")
    return tuple(array for array in made if array is not None)


def unknown_tensor(model: ServedModel, what: str, name: Any, twice: bool) -> ShapeError:
    known = model.inputs if what == "input" else model.outputs
    names = ", ".join(port.name for port in known)
    if twice:
        return ShapeError("infer", f"{what} {str(name)[:80]!r} twice", f"each once: {names}", "Leave one of them out.")
    return ShapeError("infer", f"{what} {str(name)[:80]!r}", f"one of: {names}", "See the metadata of the model.")


def _wanted(model: ServedModel, given: Any, binary: bool) -> Wanted:
    if given is None or given == []:
        every = tuple(range(len(model.outputs)))
        return Wanted(every, (binary,) * len(every))
    if not isinstance(given, list) or not all(isinstance(entry, dict) for entry in given):
        raise FormatError("infer", "outputs that are no list of objects", "one for each", "See the protocol.")
    numbers, as_bytes, slices = [], [], []
    for entry in given:
        name = entry.get("name")
        number = model.output_index.get(name) if isinstance(name, str) else None
        if number is None or number in numbers:
            raise unknown_tensor(model, "output", name, number is not None)
        parameters = mapping(entry, "parameters")
        refuse_tensor_parameters(parameters)
        place = Slice.of(name, parameters)
        numbers.append(number)
        slices.append(place)
        as_bytes.append(place is None and parameters.get("binary_data", binary) is True)
    return Wanted(tuple(numbers), tuple(as_bytes), tuple(slices) if any(slices) else ())
