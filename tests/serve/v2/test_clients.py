"""Triton's own clients, HTTP and gRPC, against a server in another process that has no torch."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import rtaccel as rt
from tests.serve.v2.protocol_server import STREAMS, Running, running
from tests.serve.v2.triton_clients import CLIENTS, client, given, http, rpc


@pytest.fixture(scope="module")
def server(files: tuple[Path, ...]) -> Iterator[Running]:
    with running(*files) as made:
        yield made


def data(*shape: int) -> np.ndarray:
    return np.random.default_rng().standard_normal(shape, np.float32)


@CLIENTS
def test_health_and_metadata(server: Running, kind: ModuleType) -> None:
    c = client(server, kind)
    assert c.is_server_live()
    assert c.is_server_ready()
    assert c.is_model_ready("net")
    assert c.is_model_ready("net", "1")
    assert not c.is_model_ready("nets")
    as_dict = {} if kind is http else {"as_json": True}
    about = c.get_model_metadata("gru", **as_dict)
    assert about["inputs"][0]["name"] == "x_t"
    assert about["inputs"][0]["datatype"] == "FP32"
    assert [int(n) for n in about["inputs"][0]["shape"]] == [-1, 3]
    assert "sequence" in c.get_server_metadata(**as_dict)["extensions"]
    index = c.get_model_repository_index(**as_dict)
    models = index if kind is http else index["models"]
    assert {m["name"]: m["state"] for m in models} == {"net": "READY", "gru": "READY", "tagger": "READY"}


@CLIENTS
@pytest.mark.parametrize("rows", [1, 2, 33])
def test_answers_are_those_of_the_model(server: Running, kind: ModuleType, files: tuple[Path, ...], rows: int) -> None:
    x = data(rows, 6)
    c = client(server, kind)
    answer = c.infer("net", [given(kind, "input", x)], request_id="a7")
    np.testing.assert_array_equal(answer.as_numpy("output"), rt.load(files[0])(x))
    got = answer.get_response()
    assert (got["id"] if kind is http else got.id) == "a7"
    named = c.infer("net", [given(kind, "input", x)], outputs=[kind.InferRequestedOutput("output")])
    np.testing.assert_array_equal(named.as_numpy("output"), answer.as_numpy("output"))


def test_json_and_bytes_say_the_same(server: Running) -> None:
    c, x = client(server, http), data(3, 6)
    as_json = http.InferInput("input", [3, 6], "FP32")
    as_json.set_data_from_numpy(x, binary_data=False)
    both = [as_json, given(http, "input", x)]
    outputs = [http.InferRequestedOutput("output", binary_data=binary) for binary in (False, True)]
    made = [c.infer("net", [i], outputs=[o]).as_numpy("output") for i in both for o in outputs]
    for other in made[1:]:
        np.testing.assert_array_equal(other, made[0])


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests(server: Running, algorithm: str) -> None:
    c, x = client(server, http), data(2, 6)
    plain = c.infer("net", [given(http, "input", x)]).as_numpy("output")
    made = c.infer("net", [given(http, "input", x)], request_compression_algorithm=algorithm).as_numpy("output")
    np.testing.assert_array_equal(made, plain)


@CLIENTS
def test_sequences_keep_their_past(server: Running, kind: ModuleType, files: tuple[Path, ...]) -> None:
    alone, c = rt.load(files[1]), client(server, kind)
    ids: list[Any] = [5, 2**40, "robot arm"]
    for t in range(4):
        for stream, sequence in enumerate(ids):
            x = data(1, 3)
            got = c.infer(
                "gru", [given(kind, "x_t", x)], sequence_id=sequence, sequence_start=t == 0, sequence_end=t == 3
            )
            np.testing.assert_array_equal(got.as_numpy("output"), alone.step(x, streams=[stream]))
    for sequence in ids:
        with pytest.raises(Exception, match="has not begun, has ended"):
            c.infer("gru", [given(kind, "x_t", data(1, 3))], sequence_id=sequence)


@CLIENTS
def test_a_start_in_the_middle_begins_anew(server: Running, kind: ModuleType) -> None:
    c, x = client(server, kind), given(kind, "x_t", data(1, 3))
    first = c.infer("gru", [x], sequence_id=9, sequence_start=True).as_numpy("output")
    second = c.infer("gru", [x], sequence_id=9).as_numpy("output")
    again = c.infer("gru", [x], sequence_id=9, sequence_start=True, sequence_end=True).as_numpy("output")
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, again)


@CLIENTS
def test_streams_are_limited(server: Running, kind: ModuleType) -> None:
    c, x = client(server, kind), given(kind, "x_t", data(1, 3))
    for sequence in range(100, 100 + STREAMS):
        c.infer("gru", [x], sequence_id=sequence, sequence_start=True)
    with pytest.raises(Exception, match=f"at most {STREAMS} at once"):
        c.infer("gru", [x], sequence_id=999, sequence_start=True)
    for sequence in range(100, 100 + STREAMS):
        c.infer("gru", [x], sequence_id=sequence, sequence_end=True)
    c.infer("gru", [x], sequence_id=999, sequence_start=True, sequence_end=True)


def test_a_grpc_stream_answers_in_order_and_survives_errors(server: Running, files: tuple[Path, ...]) -> None:
    alone, c = rt.load(files[1]), client(server, rpc)
    answers: queue.Queue[Any] = queue.Queue()
    c.start_stream(lambda result, error: answers.put((result, error)))
    steps = [data(1, 3) for _ in range(6)]
    for t, x in enumerate(steps):
        c.async_stream_infer("gru", [given(rpc, "x_t", x)], sequence_id=77, sequence_start=t == 0, sequence_end=t == 5,
                             request_id=str(t))  # fmt: skip
        if t == 2:
            c.async_stream_infer("gru", [given(rpc, "x_t", data(1, 4))], sequence_id=77)
    got = [answers.get(timeout=60) for _ in range(7)]
    c.stop_stream()
    errors = [str(error) for _, error in got if error is not None]
    assert len(errors) == 1
    assert "FP32[*, 3]" in errors[0]
    kept = [result for result, error in got if error is None]
    assert [result.get_response().id for result in kept] == list("012345")
    for result, x in zip(kept, steps):
        np.testing.assert_array_equal(result.as_numpy("output"), alone.step(x, streams=[0]))


@CLIENTS
def test_indices(server: Running, kind: ModuleType, files: tuple[Path, ...]) -> None:
    c, x = client(server, kind), np.array([3], np.int64)
    got = c.infer("tagger", [given(kind, "x_t", x, "INT64")], sequence_id=1, sequence_start=True)
    np.testing.assert_array_equal(got.as_numpy("output"), rt.load(files[2]).step(x, streams=[0]))
    with pytest.raises(Exception, match=r"out of range|7"):
        c.infer("tagger", [given(kind, "x_t", np.array([7], np.int64), "INT64")], sequence_id=1)
    c.infer("tagger", [given(kind, "x_t", x, "INT64")], sequence_id=1, sequence_end=True)


BAD: dict[str, tuple[str, Any]] = {
    "another model": ("one of: gru, net, tagger", lambda k: ("nets", [given(k, "input", data(1, 6))], {})),
    "another version": ("version 1", lambda k: ("net", [given(k, "input", data(1, 6))], {"model_version": "2"})),
    "another name": ("of: input", lambda k: ("net", [given(k, "x", data(1, 6))], {})),
    "another width": (r"FP32\[\*, 6\]", lambda k: ("net", [given(k, "input", data(1, 7))], {})),
    "another rank": (r"FP32\[\*, 6\]", lambda k: ("net", [given(k, "input", data(6))], {})),
    "another dtype": ("FP64", lambda k: ("net", [given(k, "input", data(1, 6).astype(float), "FP64")], {})),
    "twice": ("twice", lambda k: ("net", [given(k, "input", data(1, 6))] * 2, {})),
    "another output": (
        "of: output",
        lambda k: ("net", [given(k, "input", data(1, 6))], {"outputs": [k.InferRequestedOutput("y")]}),
    ),
    "two rows of one sequence": (
        "a step of one sequence",
        lambda k: ("gru", [given(k, "x_t", data(2, 3))], {"sequence_id": 3, "sequence_start": True}),
    ),
    "no sequence": ("sequence_id", lambda k: ("gru", [given(k, "x_t", data(1, 3))], {})),
}


@CLIENTS
@pytest.mark.parametrize("case", BAD)
def test_bad_requests_say_why_and_the_server_goes_on(server: Running, kind: ModuleType, case: str) -> None:
    text, make = BAD[case]
    c = client(server, kind)
    model, inputs, more = make(kind)
    with pytest.raises(Exception, match=text):
        c.infer(model, inputs, **more)
    assert c.infer("net", [given(kind, "input", data(1, 6))]).as_numpy("output").shape == (1, 3)


@CLIENTS
def test_statistics(server: Running, kind: ModuleType) -> None:
    c = client(server, kind)

    def count() -> int:
        c.infer("net", [given(kind, "input", data(5, 6))])
        stats = c.get_inference_statistics("net", **({} if kind is http else {"as_json": True}))
        return int(stats["model_stats"][0]["inference_count"])

    before = count()
    assert count() == before + 5
