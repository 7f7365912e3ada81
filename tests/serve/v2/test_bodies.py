"""Bodies of REST, good, damaged and hostile: each is answered with a status and a sentence, and the server goes on."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rtaccel as rt
from tests.serve.v2.protocol_server import Local, tensor, within

X = np.arange(12, dtype=np.float32).reshape(2, 6) / 8


def body(**changes: Any) -> dict[str, Any]:
    return {"inputs": [tensor("input", X.tolist())], **changes}


def changed(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{**tensor("input", X.tolist()), **changes}]}


def binary(data: bytes, **changes: Any) -> tuple[bytes, int]:
    """(body, length of its JSON)."""
    entry = {"name": "input", "datatype": "FP32", "shape": [2, 6], "parameters": {"binary_data_size": 48}, **changes}
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    return head + data, len(head)


GOOD = {"nested": body(), "flat": changed(data=X.reshape(-1).tolist()), "whole numbers": changed(data=[1] * 12)}


@pytest.mark.parametrize("case", GOOD)
def test_good_bodies(files: tuple[Path, ...], case: str) -> None:
    async def test(local: Local) -> None:
        status, answer = await local.infer("net", GOOD[case])
        x = np.asarray(GOOD[case]["inputs"][0]["data"], np.float32).reshape(2, 6)
        assert status == 200, answer
        (y,) = answer["outputs"]
        assert (answer["model_name"], y["name"], y["datatype"], y["shape"]) == ("net", "output", "FP32", [2, 3])
        assert y["data"] == rt.load(files[0])(x).reshape(-1).tolist()

    within(files, test)


def test_nan_goes_through_the_model(files: tuple[Path, ...]) -> None:
    async def test(local: Local) -> None:
        status, answer = await local.infer("net", body(inputs=[tensor("input", [[math.nan] * 6])]))
        assert status == 200
        assert all(math.isnan(v) for v in answer["outputs"][0]["data"])

    within(files, test)


BAD: dict[str, tuple[Any, str]] = {
    "no JSON": (b"{", "no JSON"),
    "nothing": (b"", "no JSON"),
    "bytes": (b"\xff\xfe", "no JSON"),
    "a list": (b"[]", "an object"),
    "deep": (b'{"inputs":' + b"[" * 100_000, "no JSON"),
    "no inputs": ({}, "no list of objects"),
    "inputs of another kind": ({"inputs": [3]}, "no list of objects"),
    "none of the inputs": ({"inputs": []}, "no input input"),
    "no name": (changed(name=None), "of: input"),
    "a name that is a list": (changed(name=[1]), "of: input"),
    "another datatype": (changed(datatype="INT64"), "FP32[*, 6]"),
    "a shape that is a text": (changed(shape="26"), "FP32[*, 6]"),
    "a shape below 0": (changed(shape=[-1, 6]), "FP32[*, 6]"),
    "a shape of truth values": (changed(shape=[True, 6]), "FP32[*, 6]"),
    "a shape of fractions": (changed(shape=[2.0, 6]), "FP32[*, 6]"),
    "a giant shape": (changed(shape=[1 << 39, 6]), f"expected {6 << 39}"),
    "too few": (changed(data=[1.0] * 11), "11 values"),
    "another nesting": (changed(data=X.T.tolist()), "12 values for input 'input' in [6, 2]"),
    "ragged": (changed(data=[[1.0], [1.0, 2.0]]), "ragged"),
    "texts": (changed(data=["a"] * 12), "FP32"),
    "truth values": (changed(data=[True] * 12), "FP32"),
    "null": (changed(data=None), "FP32"),
    "large whole numbers": (changed(data=[10**400] * 12), "FP32"),
    "parameters of another kind": (changed(parameters=3), "parameters"),
    "binary data that are not there": (changed(parameters={"binary_data_size": 48}), "at most the 0 bytes"),
    "a size below 0": (changed(parameters={"binary_data_size": -1}), "a number of bytes"),
    "shared memory": (changed(parameters={"shared_memory_region": "a"}), "shared_memory_region"),
    "outputs of another kind": (body(outputs=[1]), "no list of objects"),
    "an unknown output": (body(outputs=[{"name": "z"}]), "of: output"),
    "an output twice": (body(outputs=[{"name": "output"}] * 2), "twice"),
    "classification": (body(outputs=[{"name": "output", "parameters": {"classification": 3}}]), "classification"),
    "an id that is a number": (body(id=3), "id"),
    "a timeout below 0": (body(parameters={"timeout": -3}), "timeout"),
    "a sequence that is a list": (body(parameters={"sequence_id": [3]}), "sequence_id"),
    "a sequence below 0": (body(parameters={"sequence_id": -3}), "64 bits"),
    "a long sequence": (body(parameters={"sequence_id": "a" * 200}), "128"),
    "a start that is a number": (body(parameters={"sequence_start": 1}), "true or false"),
}

_FULL = json.dumps(
    body(id="a", outputs=[{"name": "output", "parameters": {"binary_data": False}}], parameters={"timeout": 9})
)
BAD |= {
    f"the key {key} twice": (
        _FULL.replace(f'"{key}": ', f'"{key}": 0, "{key}": ', 1).encode(),
        f"the key '{key}' twice",
    )
    for key in ("inputs", "outputs", "id", "name", "shape", "datatype", "data", "parameters", "binary_data", "timeout")
}


def test_bad_bodies(files: tuple[Path, ...]) -> None:
    async def test(local: Local) -> None:
        for case, (given_, text) in BAD.items():
            status, answer = await local.infer("net", given_)
            assert 400 <= status < 500 or status == 501, (case, status, answer)
            assert text in answer["error"], (case, answer)
        assert (await local.infer("net", body()))[0] == 200
        assert local.gate.under_way == local.gate.faults == 0

    within(files, test)


def test_binary_bodies(files: tuple[Path, ...]) -> None:
    async def test(local: Local) -> None:
        async def send(given_: bytes, length: Any, parts: int = 1) -> tuple[int, dict[str, str], bytes]:
            headers = {"Inference-Header-Content-Length": str(length)}
            return await local.call("POST", "/v2/models/net/infer", given_, headers, parts)

        whole, length = binary(X.tobytes())
        for parts in (1, 2, 7):
            status, headers, answer = await send(whole, length, parts)
            assert status == 200
            head = int(headers["inference-header-content-length"])
            assert json.loads(answer[:head])["outputs"][0]["parameters"] == {"binary_data_size": 24}
            np.testing.assert_array_equal(np.frombuffer(answer[head:], np.float32).reshape(2, 3), rt.load(files[0])(X))
        for given_, at, text in (
            (whole[:-1], length, "at most the 47 bytes"),
            (whole + b"a", length, "1 bytes behind"),
            (whole, length + 1, "no JSON"),
            (whole, len(whole) + 1, "of JSON alone"),
            (whole, "-3", "a number of bytes"),
            (whole, "9" * 30, "a number of bytes"),
            (binary(X.tobytes(), shape=[1, 6])[0], binary(b"", shape=[1, 6])[1], "expected 24"),
            (whole, "0", "no JSON"),
        ):
            status, _, answer = await send(given_, at)
            assert status == 400
            assert text in json.loads(answer)["error"]

    within(files, test)


def test_compressed_bodies(files: tuple[Path, ...]) -> None:
    async def test(local: Local) -> None:
        async def send(given_: bytes, encoding: str) -> tuple[int, str]:
            headers = {"Content-Encoding": encoding}
            status, _, answer = await local.call("POST", "/v2/models/net/infer", given_, headers)
            return status, json.loads(answer).get("error", "")

        packed = gzip.compress(json.dumps(body()).encode())
        assert await send(packed, "gzip") == await send(packed, "GZip") == (200, "")
        assert (await send(packed[:-9], "gzip"))[0] == 400
        assert (await send(b"abc", "deflate"))[0] == 400
        assert (await send(packed, "br"))[0] == 501
        status, text = await send(gzip.compress(b" " * 10_000_000), "gzip")
        assert (status, "100000 bytes at most" in text) == (413, True)

    within(files, test, max_body_bytes=100_000)


def test_large_and_slow_bodies(files: tuple[Path, ...]) -> None:
    async def test(local: Local) -> None:
        path = "/v2/models/net/infer"
        assert (await local.call("POST", path, b"a" * 2000))[0] == 413
        assert (await local.call("POST", path, b"a" * 2000, parts=9))[0] == 413
        assert (await local.call("POST", path, b"", {"Content-Length": "999999"}))[0] == 413
        sent: list[Any] = []

        async def never() -> Any:
            if not sent:
                sent.append(1)
                return {"type": "http.request", "body": b"a", "more_body": True}
            return await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": path, "headers": []}
        await local.app(scope, never, send)
        assert sent[1]["status"] == 408
        assert local.gate.under_way == 0

    within(files, test, max_body_bytes=1000, body_s=0.05)


def test_routes(files: tuple[Path, ...]) -> None:
    async def test(local: Local) -> None:
        async def status(method: str, path: str) -> int:
            return (await local.call(method, path))[0]

        assert await status("GET", "/v2/health/live") == 200
        assert await status("GET", "/v2/health/ready") == 200
        assert await status("GET", "/v2/models/net") == 200
        assert await status("GET", "/v2/models/net/versions/1/ready") == 200
        assert await status("GET", "/v2/models/net/versions/2/ready") == 404
        assert await status("GET", "/v2/models/n%65t") == 200
        assert await status("GET", "/v2/models/gru/config") == 200
        assert await status("GET", "/v2/models/stats") == 200
        assert await status("GET", "/v2/models/net/infer") == 405
        assert await status("POST", "/v2/models/net") == 405
        assert await status("POST", "/v2/repository/models/net/unload") == 400  # not allowed unless asked for
        for path in (
            "/",
            "/v3",
            "/v2/models",
            "/v2/../etc/passwd",
            "/v2/models/net/infer/more",
            "//",
            "/v2/repository",
        ):
            assert await status("POST", path) == 501
        _, headers, text = await local.call("GET", "/metrics")
        assert b'rtaccel_requests_total{model="net",status="ok"} 0.0' in text
        assert headers["content-type"].startswith("text/plain")

    within(files, test)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["input", "FP32"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            ["inputs", "outputs", "name", "shape", "datatype", "data", "parameters", "binary_data_size", "id",
             "sequence_id", "sequence_start", "timeout", "binary_data_output", "shared_memory_region",
             "shared_memory_offset", "shared_memory_byte_size"]
        ),
        inner, max_size=6,
    ),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["net", "gru", "tagger"]), JSON_VALUES | st.binary(max_size=60)), max_size=5))
def test_any_body_is_answered(files: tuple[Path, ...], requests: list[Any]) -> None:
    async def test(local: Local) -> None:
        for model, value in requests:
            whole = value if isinstance(value, bytes) else json.dumps(value).encode()
            for headers in ({}, {"Inference-Header-Content-Length": str(len(whole) // 2)}):
                status, _, answer = await local.call("POST", f"/v2/models/{model}/infer", whole, headers)
                assert status != 500, answer
                assert "error" in json.loads(answer) or status == 200
        assert (await local.infer("net", body()))[0] == 200
        assert local.gate.under_way == local.gate.faults == 0

    within(files, test)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_good_body_with_one_part_changed(files: tuple[Path, ...], data: st.DataObject) -> None:
    """One value of a good request is replaced by any other: it is answered, and nothing is a fault."""
    made = json.loads(
        json.dumps(body(id="a", outputs=[{"name": "output", "parameters": {}}], parameters={"timeout": 0}))
    )
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                walk(node[key])

    walk(made)
    node, key = data.draw(st.sampled_from(places))
    node[key] = data.draw(JSON_VALUES)

    async def test(local: Local) -> None:
        status, answer = await local.infer("net", made)
        assert status in (200, 400, 501, 504), answer
        assert local.gate.faults == 0

    within(files, test)
