"""Models of int32, bytes and truth values, called by Triton's own clients as the examples that come with these call theirs."""

from __future__ import annotations

import asyncio
import json
import queue
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from tests.serve.v2.protocol_server import Running, running

pytest.importorskip("uvicorn", reason="needs the package uvicorn (extra 'serve')")
pytest.importorskip("grpc", reason="needs the package grpcio (extra 'serve')")
http = pytest.importorskip("tritonclient.http", reason="needs the package tritonclient[http]")
rpc = pytest.importorskip("tritonclient.grpc", reason="needs the package tritonclient[grpc]")

CLIENTS = pytest.mark.parametrize("kind", [http, rpc], ids=["http", "grpc"])


class Sums(nn.Module):
    def forward(self, INPUT0: Tensor, INPUT1: Tensor) -> Any:
        return INPUT0 + INPUT1, INPUT0 - INPUT1


class Bright(nn.Module):
    """Bytes above a limit, where they are looked at."""

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return (image.float() > 100.0) & mask


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder, x = tmp_path_factory.mktemp("whole"), torch.zeros(1, 16, dtype=torch.int32)
    sums = rt.save(
        rt.compile(Sums().eval(), (x, x.clone())), folder / "simple.rta", output_names=["OUTPUT0", "OUTPUT1"]
    )
    call = (torch.zeros(1, 5, dtype=torch.uint8), torch.ones(1, 5, dtype=torch.bool))
    bright = rt.save(rt.compile(Bright().eval(), call), folder / "bright.rta")
    with running(sums, bright, "--server-name", "triton", "--repository-control") as made:
        yield made


def client(server: Running, kind: ModuleType) -> Any:
    return kind.InferenceServerClient(server.http if kind is http else server.grpc)


def numbers(rows: int = 1) -> tuple[np.ndarray, np.ndarray]:
    made = np.random.default_rng().integers(-(2**31), 2**31, (2, rows, 16)).astype(np.int32)
    return made[0], made[1]


def given(kind: ModuleType, name: str, x: np.ndarray, datatype: str = "INT32", **how: Any) -> Any:
    made = kind.InferInput(name, list(x.shape), datatype)
    made.set_data_from_numpy(x, **how)
    return made


def both(kind: ModuleType, a: np.ndarray, b: np.ndarray) -> list[Any]:
    return [given(kind, "INPUT0", a), given(kind, "INPUT1", b)]


def check(answer: Any, a: np.ndarray, b: np.ndarray) -> None:
    for name, want in (("OUTPUT0", a + b), ("OUTPUT1", a - b)):
        got = answer.as_numpy(name)
        assert got.dtype == np.int32
        np.testing.assert_array_equal(got, want)


@CLIENTS
@pytest.mark.parametrize("rows", [1, 7])
def test_sums_and_differences(server: Running, kind: ModuleType, rows: int) -> None:
    c, (a, b) = client(server, kind), numbers(rows)
    check(c.infer("simple", both(kind, a, b)), a, b)
    asked = [kind.InferRequestedOutput(name) for name in ("OUTPUT0", "OUTPUT1")]
    check(c.infer("simple", both(kind, a, b), outputs=asked), a, b)
    alone = c.infer("simple", both(kind, a, b), outputs=asked[1:])
    np.testing.assert_array_equal(alone.as_numpy("OUTPUT1"), a - b)
    assert alone.as_numpy("OUTPUT0") is None


@pytest.mark.parametrize("binary", [False, True])
def test_json_and_bytes(server: Running, binary: bool) -> None:
    c, (a, b) = client(server, http), numbers(2)
    inputs = [given(http, "INPUT0", a, binary_data=binary), given(http, "INPUT1", b, binary_data=not binary)]
    asked = [http.InferRequestedOutput("OUTPUT0", binary_data=not binary),
             http.InferRequestedOutput("OUTPUT1", binary_data=binary)]  # fmt: skip
    more: dict[str, Any] = {"query_params": {"one": 1}, "headers": {"test": "1"}}
    for algorithm in (None, "gzip", "deflate"):
        check(c.infer("simple", inputs, outputs=asked, request_compression_algorithm=algorithm, **more), a, b)


def test_numbers_outside_of_int32_are_refused(server: Running) -> None:
    tensors = [{"name": f"INPUT{i}", "datatype": "INT32", "shape": [1, 16], "data": [2**31 * i] * 16} for i in (0, 1)]
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"http://{server.http}/v2/models/simple/infer", json.dumps({"inputs": tensors}).encode())
    assert "-2147483648 to 2147483647" in json.loads(error.value.read())["error"]


def test_many_at_once(server: Running) -> None:
    calls = [numbers() for _ in range(9)]
    with http.InferenceServerClient(server.http, concurrency=4) as c:
        asked = [c.async_infer("simple", both(http, a, b)) for a, b in calls]
        for request, (a, b) in zip(asked, calls):
            check(request.get_result(), a, b)
    answers: queue.Queue[Any] = queue.Queue()
    c = client(server, rpc)
    for number, (a, b) in enumerate(calls):
        c.async_infer(
            "simple", both(rpc, a, b), lambda result, error: answers.put((result, error)), request_id=str(number)
        )
    for _ in calls:
        result, error = answers.get(timeout=60)
        assert error is None
        check(result, *calls[int(result.get_response().id)])


@pytest.mark.parametrize("name", ["http", "grpc"])
def test_clients_of_an_event_loop(server: Running, name: str) -> None:
    module = pytest.importorskip(f"tritonclient.{name}.aio", reason="needs the package tritonclient[all]")
    a, b = numbers()

    async def call() -> None:
        async with module.InferenceServerClient(server.http if name == "http" else str(server.grpc)) as c:
            check(await c.infer("simple", both(module, a, b)), a, b)

    asyncio.run(call())


def test_typed_contents(server: Running) -> None:
    """Numbers in fields of their own, over a bare channel."""
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    a, b = numbers()
    request = service_pb2.ModelInferRequest(model_name="simple")
    for name, x in (("INPUT0", a), ("INPUT1", b)):
        entry = request.inputs.add(name=name, datatype="INT32", shape=[1, 16])
        entry.contents.int_contents[:] = x.reshape(-1).tolist()
    with grpc.insecure_channel(str(server.grpc)) as channel:
        answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    got = [np.frombuffer(data, np.int32) for data in answer.raw_output_contents]
    np.testing.assert_array_equal(got, [(a + b)[0], (a - b)[0]])


@CLIENTS
def test_bytes_and_truth_values(server: Running, kind: ModuleType) -> None:
    c, rng = client(server, kind), np.random.default_rng()
    image, mask = rng.integers(0, 256, (3, 5)).astype(np.uint8), rng.random((3, 5)) > 0.3
    inputs = [given(kind, "image", image, "UINT8"), given(kind, "mask", mask, "BOOL")]
    got = c.infer("bright", inputs).as_numpy("output")
    assert got.dtype == np.bool_
    np.testing.assert_array_equal(got, (image > 100) & mask)
    with pytest.raises(Exception, match="BOOL"):
        c.infer("bright", [given(kind, "image", image > 9, "BOOL"), inputs[1]])
    if kind is http:
        as_json = [given(http, "image", image, "UINT8", binary_data=False), inputs[1]]
        np.testing.assert_array_equal(c.infer("bright", as_json).as_numpy("output"), got)


@CLIENTS
def test_metadata_and_configuration(server: Running, kind: ModuleType) -> None:
    c, as_dict = client(server, kind), {} if kind is http else {"as_json": True}
    assert c.get_server_metadata(**as_dict)["name"] == "triton"
    about = c.get_model_metadata("simple", **as_dict)
    assert [(t["name"], t["datatype"]) for t in about["inputs"]] == [("INPUT0", "INT32"), ("INPUT1", "INT32")]
    assert [t["name"] for t in about["outputs"]] == ["OUTPUT0", "OUTPUT1"]
    config = c.get_model_config("bright", **as_dict)
    config = config if kind is http else config["config"]
    assert config["name"] == "bright"
    assert [t["data_type"] for t in config["input"]] == ["TYPE_UINT8", "TYPE_BOOL"]
    assert [[int(n) for n in t["dims"]] for t in (*config["input"], *config["output"])] == [[5], [5], [5]]
    assert config["max_batch_size"] == 64
    for ask in (c.get_model_metadata, c.get_model_config):
        with pytest.raises(Exception, match="Request for unknown model: got model 'other'"):
            ask("other")


@CLIENTS
def test_a_model_is_unloaded_and_loaded(server: Running, kind: ModuleType) -> None:
    c, (a, b) = client(server, kind), numbers()
    c.unload_model("simple")
    assert not c.is_model_ready("simple")
    with pytest.raises(Exception, match="Request for unknown model"):
        c.infer("simple", both(kind, a, b))
    c.load_model("simple")
    assert c.is_model_ready("simple")
    check(c.infer("simple", both(kind, a, b)), a, b)
    with pytest.raises(Exception, match="other"):
        c.load_model("other")


def test_a_server_needs_a_name() -> None:
    from rtaccel.serve.v2.settings import Settings

    for bad in ("", "x" * 129, 5):
        with pytest.raises(rt.FormatError, match="1 to 128 characters"):
            Settings(name=bad)  # type: ignore[arg-type]


def test_a_gru_says_it_has_sequences(tmp_path: Path) -> None:
    file = rt.save(rt.stream(nn.GRU(3, 4, batch_first=True).eval(), torch.randn(2, 3)), tmp_path / "gru.rta")
    with running(file, "--sequence-idle", "7") as server:
        config = client(server, rpc).get_model_config("gru").config
        assert config.sequence_batching.max_sequence_idle_microseconds == 7_000_000
        assert (config.input[0].name, list(config.input[0].dims)) == ("x_t", [3])
