"""What stands in a node of the file: its attributes, and the value of a constant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rtaccel.convert.onnx.values import Known, known_of

if TYPE_CHECKING:
    from rtaccel.convert.onnx.builder import Builder


def constant_node(build: Builder, node: Any) -> Known:
    attr, name = node.attribute[0], node.output[0]
    if attr.name == "value":
        return known_of(build.onnx, attr.t, name)
    value = build.onnx.helper.get_attribute_value(attr)
    if attr.name in ("value_float", "value_int"):
        return Known(torch.tensor(value, dtype=torch.float32 if attr.name == "value_float" else torch.int64), name)
    if attr.name in ("value_floats", "value_ints"):
        kind = torch.float32 if attr.name == "value_floats" else torch.int64
        return Known(torch.tensor(list(value), dtype=kind), name)
    if attr.name in ("value_string", "value_strings"):
        return Known(np.array(value), name, 8)
    return build.refuse(f"is given as {attr.name}")


def attribute(build: Builder, attr: Any) -> Any:
    if attr.HasField("g") or attr.graphs or attr.HasField("tp") or attr.type_protos:
        build.refuse(f"has the attribute {attr.name}, a graph or a type")
    value = build.onnx.helper.get_attribute_value(attr)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, build.onnx.TensorProto):
        return known_of(build.onnx, value, attr.name)
    if isinstance(value, (str, int, float)):
        return value
    return tuple(v.decode() if isinstance(v, bytes) else v for v in value)
