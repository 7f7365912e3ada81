"""The table of messages is the protocol's: every name, number and type as in the code generated from the published file."""

from __future__ import annotations

import pytest

pytest.importorskip("grpc", reason="needs the package grpcio (extra 'serve')")
published = pytest.importorskip("tritonclient.grpc.service_pb2", reason="needs the package tritonclient[grpc]")

from tritonclient.grpc import model_config_pb2 as configuration  # noqa: E402

from rtaccel.serve.v2.messages import MESSAGES, SERVICE  # noqa: E402
from rtaccel.serve.v2.rpc_codec import NUMBERS  # noqa: E402

KNOWN = {**published.DESCRIPTOR.message_types_by_name, **configuration.DESCRIPTOR.message_types_by_name}
PARTS = ("ModelConfig", "ModelInput", "ModelOutput", "ModelSequenceBatching")
"""Messages of which a part is there."""


@pytest.mark.parametrize("name", MESSAGES)
def test_fields(name: str) -> None:
    ours, theirs = MESSAGES[name].DESCRIPTOR, KNOWN[name.partition(".")[0]]
    for part in name.split(".")[1:]:
        theirs = theirs.nested_types_by_name[part]
    for field in ours.fields:
        other = theirs.fields_by_name[field.name]
        told = [
            (f.number, f.TYPE_INT32 if f.type == f.TYPE_ENUM else f.type,  # on the wire one is the other
             f.message_type.full_name if f.message_type else None,
             f.containing_oneof.name if f.containing_oneof and name not in PARTS else None)
            for f in (field, other)
        ]  # fmt: skip
        assert told[0] == told[1], field.name
        assert field.is_repeated == other.is_repeated if hasattr(field, "is_repeated") else True
    extra = {f.name for f in theirs.fields} - {f.name for f in ours.fields}
    assert name in PARTS or extra <= {"cache_hit", "cache_miss", "batch_stats", "memory_usage", "response_stats"}


def test_the_numbers_of_datatypes() -> None:
    assert {f"TYPE_{name}": number for name, number in NUMBERS.items()}.items() <= dict(
        configuration.DataType.items()
    ).items()


def test_the_service_has_its_methods() -> None:
    service = published.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert service.full_name == SERVICE
    for method in service.methods:
        if method.input_type.name in MESSAGES:
            assert method.output_type.name in MESSAGES, method.name


def test_bytes_are_the_same() -> None:
    ours, theirs = MESSAGES["ModelInferRequest"](), published.ModelInferRequest()
    for message in (ours, theirs):
        message.model_name = "net"
        message.parameters["sequence_id"].int64_param = 7
        tensor = message.inputs.add(name="x", datatype="FP32", shape=[1, 3])
        tensor.contents.fp32_contents.extend([1.0, 2.0, 3.0])
        message.outputs.add(name="y")
        message.raw_input_contents.append(b"abc")
    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)
