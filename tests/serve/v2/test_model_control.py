"""What Triton's own clients ask of a server beside inference: models loaded with a configuration, counts, and parts that there
are not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.serve.v2.protocol_server import Running, running
from tests.serve.v2.triton_clients import CLIENTS, client, http, rpc


@pytest.fixture(scope="module")
def server(files: tuple[Path, ...]) -> Iterator[Running]:
    with running(*files, "--repository-control", "--max-batch", "32") as made:
        yield made


def as_dict(kind: ModuleType) -> dict[str, Any]:
    return {} if kind is http else {"as_json": True}


def max_batch(c: Any, kind: ModuleType, model: str = "net") -> int:
    config = c.get_model_config(model, **as_dict(kind))
    return int((config if kind is http else config["config"])["max_batch_size"])


def infer(c: Any, kind: ModuleType, rows: int = 1) -> Any:
    x = kind.InferInput("input", [rows, 6], "FP32")
    x.set_data_from_numpy(np.random.default_rng().standard_normal((rows, 6), np.float32))
    return c.infer("net", [x]).as_numpy("output")


@CLIENTS
def test_a_model_is_loaded_with_another_batch_size(server: Running, kind: ModuleType) -> None:
    c = client(server, kind)
    assert max_batch(c, kind) == 32
    for given in (16, "8"):
        c.load_model("net", config=json.dumps({"max_batch_size": given}))
        assert max_batch(c, kind) == int(given)
        assert infer(c, kind).shape == (1, 3)
    c.unload_model("net")
    c.load_model("net", config=json.dumps({"max_batch_size": 4}))
    assert max_batch(c, kind) == 4
    c.load_model("net")  # without a configuration it is the server's again
    assert max_batch(c, kind) == 32
    c.load_model("gru", config=json.dumps({"max_batch_size": 2}))
    assert max_batch(c, kind, "gru") == 1  # of one sequence a request has one step
    c.load_model("gru")


@CLIENTS
@pytest.mark.parametrize(
    "config",
    ["", "[]", '"max_batch_size": 4', '{"max_batch_size": 0}', '{"max_batch_size": 33}', '{"max_batch_size": 4.5}',
     '{"max_batch_size": true}', '{"max_batch_size": "4x"}', '{"max_batch_size": null}', '{"backend": "python"}',
     "[" * 100_000, '{"max_batch_size": 4, "max_batch_size": 5}'],
    ids=range(12),
)  # fmt: skip
def test_other_configurations_are_refused(server: Running, kind: ModuleType, config: str) -> None:
    c = client(server, kind)
    with pytest.raises(Exception, match=r"failed to load 'net'.*max_batch_size of 1 to 32"):
        c.load_model("net", config=config)
    assert max_batch(c, kind) == 32


@CLIENTS
def test_files_and_other_names_are_refused(server: Running, kind: ModuleType) -> None:
    c = client(server, kind)
    with pytest.raises(Exception, match=r"failed to load 'net'.*file:1/model.onnx"):
        c.load_model("net", config="{}", files={"file:1/model.onnx": b"abc"})
    with pytest.raises(Exception, match="failed to load 'other'"):
        c.load_model("other")
    assert infer(c, kind).shape == (1, 3)


@CLIENTS
def test_the_index_of_what_is_ready(server: Running, kind: ModuleType) -> None:
    c = client(server, kind)
    c.unload_model("net")
    try:
        listed = client(server, rpc).get_model_repository_index().models
        assert {m.name: m.state for m in listed} == {"net": "UNAVAILABLE", "gru": "READY", "tagger": "READY"}
        # The clients have no argument for it.
        if kind is http:
            answer = c._post("v2/repository/index", '{"ready": true}', None, None)
            names = {m["name"] for m in json.loads(answer.read())}
        else:
            import grpc
            from tritonclient.grpc import service_pb2, service_pb2_grpc

            with grpc.insecure_channel(str(server.grpc)) as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                names = {m.name for m in stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(ready=True)).models}
        assert names == {"gru", "tagger"}
    finally:
        c.load_model("net")


@CLIENTS
def test_every_part_of_the_statistics(server: Running, kind: ModuleType) -> None:
    c = client(server, kind)

    def read() -> dict[str, tuple[int, int]]:
        found = c.get_inference_statistics("net", **as_dict(kind))["model_stats"][0]["inference_stats"]
        return {key: (int(found[key].get("count", 0)), int(found[key].get("ns", 0))) for key in found}

    before = read()
    for rows in (1, 2, 3):
        infer(c, kind, rows)
    after = read()
    for part in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert after[part][0] == before[part][0] + 3, part
        assert after[part][1] > before[part][1], part
    with pytest.raises(Exception, match=r"FP32\[\*, 6\]"):
        c.infer("net", [kind.InferInput("input", [1, 7], "FP32").set_data_from_numpy(np.zeros((1, 7), np.float32))])


@CLIENTS
def test_settings_of_traces_and_logs_are_refused_in_words(server: Running, kind: ModuleType) -> None:
    c = client(server, kind)
    for call, text in (
        (c.get_trace_settings, "take times from /metrics"),
        (lambda: c.get_trace_settings(model_name="net"), "take times from /metrics"),
        (lambda: c.update_trace_settings(settings={"trace_rate": "1"}), "take times from /metrics"),
        (c.get_log_settings, "where the server is started"),
        (lambda: c.update_log_settings({"log_verbose_level": 1}), "where the server is started"),
    ):
        with pytest.raises(Exception, match=text) as error:
            call()
        assert error.value.status() in ("501", "StatusCode.UNIMPLEMENTED")


@CLIENTS
def test_classes_of_an_output_are_refused(server: Running, kind: ModuleType) -> None:
    c, x = client(server, kind), kind.InferInput("input", [1, 6], "FP32")
    x.set_data_from_numpy(np.zeros((1, 6), np.float32))
    with pytest.raises(Exception, match="Choose classes in the client"):
        c.infer("net", [x], outputs=[kind.InferRequestedOutput("output", class_count=2)])
