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
from tritonclient.utils import InferenceServerException

import rtaccel as rt
from tests.serve.v2.protocol_server import Running, running
from tests.serve.v2.triton_clients import CLIENTS, client, given, http, rpc


class Sums(nn.Module):
    def forward(self, INPUT0: Tensor, INPUT1: Tensor) -> Any:
        return INPUT0 + INPUT1, INPUT0 - INPUT1


class Sequence(nn.Module):
    """Numbers as they come, the first of a sequence one more: the model `simple_sequence` of the clients' examples."""

    def forward(self, x: Tensor) -> Tensor:
        count = torch.cumsum(x * 0 + 1, 1)
        return (x + (count == 1))[:, -1]


class Total(nn.Module):
    """The sum of a sequence so far."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cumsum(x, 1, dtype=torch.int32)[:, -1]


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
    files, step = [sums, bright], torch.zeros(8, 1, dtype=torch.int32)
    for name, module in (("simple_sequence", Sequence()), ("total", Total())):
        edges = {"input_names": ["INPUT"], "output_names": ["OUTPUT"]}
        files.append(rt.save(rt.stream(module.eval(), step), folder / f"{name}.rta", **edges))
    with running(*files, "--server-name", "triton", "--repository-control") as made:
        yield made


def numbers(rows: int = 1) -> tuple[np.ndarray, np.ndarray]:
    made = np.random.default_rng().integers(-(2**31), 2**31, (2, rows, 16)).astype(np.int32)
    return made[0], made[1]


def both(kind: ModuleType, a: np.ndarray, b: np.ndarray) -> list[Any]:
    return [given(kind, "INPUT0", a, "INT32"), given(kind, "INPUT1", b, "INT32")]


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
    inputs = [
        given(http, "INPUT0", a, "INT32", binary_data=binary),
        given(http, "INPUT1", b, "INT32", binary_data=not binary),
    ]
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


# -- sequences -----------------------------------------------------------------------------------------------------------

VALUES = [11, 7, 5, 3, 2, 0, 1]


def one(kind: ModuleType, value: int) -> Any:
    return given(kind, "INPUT", np.full((1, 1), value, np.int32), "INT32")


@CLIENTS
@pytest.mark.parametrize("sequence", [1000, "a-name-of-text", "1002"])
def test_sequences_of_whole_numbers(server: Running, kind: ModuleType, sequence: int | str) -> None:
    c = client(server, kind)
    for model, wanted in (
        ("simple_sequence", lambda i, sent: sent[i] + (i == 0)),
        ("total", lambda i, sent: sum(sent[: i + 1])),
    ):
        sent = [100, *(-v for v in VALUES)]
        for i, value in enumerate(sent):
            how = {"sequence_id": sequence, "sequence_start": i == 0, "sequence_end": i == len(sent) - 1}
            got = c.infer(model, [one(kind, value)], outputs=[kind.InferRequestedOutput("OUTPUT")], **how).as_numpy(
                "OUTPUT"
            )
            assert got.dtype == np.int32
            assert got.tolist() == [[wanted(i, sent)]]


def test_sequences_beside_one_another_over_one_stream(server: Running) -> None:
    c, answers = client(server, rpc), queue.Queue[Any]()
    c.start_stream(callback=lambda result, error: answers.put((result, error)))
    sent = {1000: [0, *VALUES], 1001: [100, *(-v for v in VALUES)], "text": [20, *(-v for v in VALUES)]}
    for sequence, values in sent.items():
        for i, value in enumerate(values):
            c.async_stream_infer(
                "total", [one(rpc, value)], request_id=f"{sequence}_{i}", sequence_id=sequence, sequence_start=i == 0,
                sequence_end=i == len(values) - 1,
            )  # fmt: skip
    found = {}
    for _ in range(sum(map(len, sent.values()))):
        result, error = answers.get(timeout=60)
        assert error is None
        found[result.get_response().id] = int(result.as_numpy("OUTPUT")[0, 0])
    c.stop_stream()
    assert found == {f"{s}_{i}": sum(v[: i + 1]) for s, v in sent.items() for i in range(len(v))}


@CLIENTS
def test_tensors_of_strings_are_refused(server: Running, kind: ModuleType) -> None:
    text = kind.InferInput("INPUT0", [1, 16], "BYTES")
    text.set_data_from_numpy(np.full((1, 16), b"1", np.object_))
    _, b = both(kind, *numbers())
    with pytest.raises(InferenceServerException, match=r"BYTES.*INT32"):
        client(server, kind).infer("simple", [text, b])


class Named(nn.Module):
    def forward(self, x: Tensor, how: str) -> Tensor:
        return x + 1 if how == "more" else x


def test_strings_are_no_tensors_of_a_model(tmp_path: Path) -> None:
    """A text is a fixed argument: another one is refused in a call, and the model has no file."""
    x = torch.zeros(1, 3)
    fast = rt.compile(Named().eval(), (x, "more"))
    assert fast(x, "more").tolist() == [[1.0] * 3]
    with pytest.raises(rt.ShapeError, match=r"'less'.*'more'"):
        fast(x, "less")
    with pytest.raises(rt.UnsupportedProblem, match="how"):
        rt.save(fast, tmp_path / "named.rta")
    with pytest.raises(rt.ShapeError, match="str"):
        rt.stream(nn.Identity().eval(), ("text",))
