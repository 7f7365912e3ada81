"""The messages of `inference.GRPCInferenceService`, made at import from the table below.

The table is our own writing of the protocol's published names and numbers. It makes classes in a pool of their own, so
that a client's generated code in the same process (tritonclient, kserve) does not collide with them.
"""

from __future__ import annotations

from typing import Any

from rtaccel.core.errors import BackendUnavailable

try:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
except ImportError as error:
    raise BackendUnavailable(
        "serve", f"no package protobuf ({error})", "it", "pip install 'rtaccel[serve]', or --no-grpc"
    ) from None

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

_INFER_TENSOR = "name=1 string, datatype=2 string, shape=3 *int64, parameters=4 map InferParameter"
_NAMED = "name=1 string, version=2 string"
_CHANGE = "repository_name=1 string, model_name=2 string, parameters=3 map ModelRepositoryParameter"
_OBJECT = "key=2 string, offset=3 uint64, byte_size=4 uint64"

TABLE = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "live=1 bool",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "ready=1 bool",
    "ModelReadyRequest": _NAMED,
    "ModelReadyResponse": "ready=1 bool",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "name=1 string, version=2 string, extensions=3 *string",
    "ModelMetadataRequest": _NAMED,
    "ModelMetadataResponse.TensorMetadata": "name=1 string, datatype=2 string, shape=3 *int64",
    "ModelMetadataResponse": "name=1 string, versions=2 *string, platform=3 string, "
    "inputs=4 *ModelMetadataResponse.TensorMetadata, outputs=5 *ModelMetadataResponse.TensorMetadata",
    "InferParameter": "parameter_choice: bool_param=1 bool, int64_param=2 int64, string_param=3 string, "
    "double_param=4 double, uint64_param=5 uint64",
    "InferTensorContents": "bool_contents=1 *bool, int_contents=2 *int32, int64_contents=3 *int64, "
    "uint_contents=4 *uint32, uint64_contents=5 *uint64, fp32_contents=6 *float, fp64_contents=7 *double, "
    "bytes_contents=8 *bytes",
    "ModelInferRequest.InferInputTensor": f"{_INFER_TENSOR}, contents=5 InferTensorContents",
    "ModelInferRequest.InferRequestedOutputTensor": "name=1 string, parameters=2 map InferParameter",
    "ModelInferRequest": "model_name=1 string, model_version=2 string, id=3 string, parameters=4 map InferParameter, "
    "inputs=5 *ModelInferRequest.InferInputTensor, outputs=6 *ModelInferRequest.InferRequestedOutputTensor, "
    "raw_input_contents=7 *bytes",
    "ModelInferResponse.InferOutputTensor": f"{_INFER_TENSOR}, contents=5 InferTensorContents",
    "ModelInferResponse": "model_name=1 string, model_version=2 string, id=3 string, parameters=4 map InferParameter, "
    "outputs=5 *ModelInferResponse.InferOutputTensor, raw_output_contents=6 *bytes",
    "ModelStreamInferResponse": "error_message=1 string, infer_response=2 ModelInferResponse",
    "ModelStatisticsRequest": _NAMED,
    "ModelConfigRequest": _NAMED,
    "ModelInput": "name=1 string, data_type=2 int32, dims=4 *int64",
    "ModelOutput": "name=1 string, data_type=2 int32, dims=3 *int64",
    "ModelSequenceBatching": "max_sequence_idle_microseconds=1 uint64",
    "ModelConfig": "name=1 string, platform=2 string, max_batch_size=4 int32, input=5 *ModelInput, output=6 *ModelOutput, "
    "sequence_batching=13 ModelSequenceBatching, backend=17 string",
    "ModelConfigResponse": "config=1 ModelConfig",
    "StatisticDuration": "count=1 uint64, ns=2 uint64",
    "InferStatistics": "success=1 StatisticDuration, fail=2 StatisticDuration, queue=3 StatisticDuration, "
    "compute_input=4 StatisticDuration, compute_infer=5 StatisticDuration, compute_output=6 StatisticDuration",
    "ModelStatistics": "name=1 string, version=2 string, last_inference=3 uint64, inference_count=4 uint64, "
    "execution_count=5 uint64, inference_stats=6 InferStatistics",
    "ModelStatisticsResponse": "model_stats=1 *ModelStatistics",
    "ModelRepositoryParameter": "parameter_choice: bool_param=1 bool, int64_param=2 int64, string_param=3 string, "
    "bytes_param=4 bytes",
    "RepositoryIndexRequest": "repository_name=1 string, ready=2 bool",
    "RepositoryIndexResponse.ModelIndex": "name=1 string, version=2 string, state=3 string, reason=4 string",
    "RepositoryIndexResponse": "models=1 *RepositoryIndexResponse.ModelIndex",
    "RepositoryModelLoadRequest": _CHANGE,
    "RepositoryModelLoadResponse": "",
    "RepositoryModelUnloadRequest": _CHANGE,
    "RepositoryModelUnloadResponse": "",
    "SystemSharedMemoryStatusRequest": "name=1 string",
    "SystemSharedMemoryStatusResponse.RegionStatus": f"name=1 string, {_OBJECT}",
    "SystemSharedMemoryStatusResponse": "regions=1 map SystemSharedMemoryStatusResponse.RegionStatus",
    "SystemSharedMemoryRegisterRequest": f"name=1 string, {_OBJECT}",
    "SystemSharedMemoryRegisterResponse": "",
    "SystemSharedMemoryUnregisterRequest": "name=1 string",
    "SystemSharedMemoryUnregisterResponse": "",
    "CudaSharedMemoryStatusRequest": "name=1 string",
    "CudaSharedMemoryStatusResponse.RegionStatus": "name=1 string, device_id=2 uint64, byte_size=3 uint64",
    "CudaSharedMemoryStatusResponse": "regions=1 map CudaSharedMemoryStatusResponse.RegionStatus",
    "CudaSharedMemoryUnregisterRequest": "name=1 string",
    "CudaSharedMemoryUnregisterResponse": "",
}
"""Message -> fields `name=number type`: `*` repeated, `map` from text to a message; `choice:` in front, one of them at a time."""

_Field = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    name: getattr(_Field, f"TYPE_{name.upper()}")
    for name in ("bool", "int32", "int64", "uint32", "uint64", "float", "double", "string", "bytes")
}


def _build() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="rtaccel/open_inference.proto", package=PACKAGE, syntax="proto3")
    made: dict[str, Any] = {}
    for name in sorted(TABLE, key=lambda n: n.count(".")):  # a message before those inside of it
        outer, _, inner = name.rpartition(".")
        made[name] = (made[outer].nested_type if outer else file.message_type).add(name=inner)
    for name, text in TABLE.items():
        choice, colon, fields = text.partition(": ")
        if colon:
            made[name].oneof_decl.add(name=choice)
        for field in filter(None, (fields if colon else text).split(", ")):
            _add(made[name], name, field, 0 if colon else None)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    found = {name: pool.FindMessageTypeByName(f"{PACKAGE}.{name}") for name in TABLE}
    return {name: message_factory.GetMessageClass(descriptor) for name, descriptor in found.items()}


def _add(message: Any, owner: str, text: str, choice: int | None) -> None:
    label, _, kind = text.partition(" ")
    name, _, number = label.partition("=")
    field = message.field.add(name=name, number=int(number), label=_Field.LABEL_OPTIONAL)
    if choice is not None:
        field.oneof_index = choice
    if kind.startswith("map "):
        entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        _add(entry, owner, "key=1 string", None)
        _add(entry, owner, f"value=2 {kind[4:]}", None)
        kind = f"*{owner}.{entry.name}"
    if kind.startswith("*"):
        field.label, kind = _Field.LABEL_REPEATED, kind[1:]
    if kind in _TYPES:
        field.type = _TYPES[kind]
    else:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"


MESSAGES = _build()
"""Name -> class."""
