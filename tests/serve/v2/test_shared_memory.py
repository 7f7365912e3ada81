"""Tensors in shared memory of this machine, by Triton's own clients: what is computed, and everything that is refused."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import rtaccel as rt
from rtaccel.serve.v2.settings import Settings
from rtaccel.serve.v2.shared_memory import Regions, Slice
from rtaccel.serve.v2.tensor_spec import TensorSpec
from tests.serve.v2.protocol_server import Running, running
from tests.serve.v2.triton_clients import CLIENTS, client, http

memory = pytest.importorskip("tritonclient.utils.shared_memory", reason="needs the package tritonclient[http]")
if not os.path.isdir("/dev/shm"):
    pytest.skip("needs Linux' shared memory", allow_module_level=True)

REGIONS, BYTES = 4, 1 << 16


@pytest.fixture(scope="module")
def server(files: tuple[Path, ...]) -> Iterator[Running]:
    with running(*files, "--shared-memory", REGIONS, "--shared-memory-bytes", BYTES) as made:
        yield made


@contextmanager
def object_of(size: int) -> Iterator[tuple[str, np.ndarray]]:
    """(key of an object of shared memory, its bytes), filled with 0xa5."""
    path = Path("/dev/shm") / f"rta.test-region-{uuid.uuid4().hex}"
    path.write_bytes(b"\xa5" * size)
    try:
        yield f"/{path.name}", np.memmap(path, np.uint8, "r+")
    finally:
        path.unlink()


@contextmanager
def region(server: Running, kind: ModuleType, size: int, offset: int = 0) -> Iterator[tuple[str, np.ndarray]]:
    """(name of a region, its bytes) of an object that is larger."""
    with object_of(offset + size + 64) as (key, data):
        c, name = client(server, kind), f"region-{uuid.uuid4().hex[:8]}"
        c.register_system_shared_memory(name, key, size, offset)
        try:
            yield name, data[offset:]
        finally:
            c.unregister_system_shared_memory(name)


def put(data: np.ndarray, first: int, x: np.ndarray) -> None:
    data[first : first + x.nbytes] = x.reshape(-1).view(np.uint8)


def lying(kind: ModuleType, name: str, shape: Any, place: tuple[str, int, int]) -> Any:
    made = kind.InferInput(name, list(shape), "FP32")
    made.set_shared_memory(place[0], place[2], offset=place[1])
    return made


def asked(kind: ModuleType, place: tuple[str, int, int] | None) -> Any:
    made = kind.InferRequestedOutput("output")
    if place is not None:
        made.set_shared_memory(place[0], place[2], offset=place[1])
    return made


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng().standard_normal(shape, np.float32)


@CLIENTS
@pytest.mark.parametrize("rows", [1, 3, 17])
def test_tensors_come_and_go_in_regions(server: Running, kind: ModuleType, files: tuple[Path, ...], rows: int) -> None:
    x, c = random(rows, 6), client(server, kind)
    want = rt.load(files[0])(x)
    with region(server, kind, 1000, offset=24) as (source, a), region(server, kind, 333) as (target, b):
        put(a, 7, x)  # at an odd place, as no client has to align
        answer = c.infer("net", [lying(kind, "input", x.shape, (source, 7, x.nbytes))],
                         outputs=[asked(kind, (target, 5, want.nbytes + 9))])  # fmt: skip
        told = answer.get_output("output")
        assert [int(n) for n in (told["shape"] if kind is http else told.shape)] == [rows, 3]
        np.testing.assert_array_equal(b[5 : 5 + want.nbytes].copy().view(np.float32).reshape(want.shape), want)
        assert (b[:5] == 0xA5).all()
        assert (b[5 + want.nbytes :] == 0xA5).all()
        as_data = c.infer("net", [lying(kind, "input", x.shape, (source, 7, x.nbytes))]).as_numpy("output")
        np.testing.assert_array_equal(as_data, want)
        sent = kind.InferInput("input", list(x.shape), "FP32")
        sent.set_data_from_numpy(x)
        b[:] = 0xA5
        c.infer("net", [sent], outputs=[asked(kind, (target, 0, want.nbytes))])
        np.testing.assert_array_equal(b[: want.nbytes].copy().view(np.float32).reshape(want.shape), want)


@CLIENTS
def test_the_same_request_reads_what_is_there_now(server: Running, kind: ModuleType, files: tuple[Path, ...]) -> None:
    c, net = client(server, kind), rt.load(files[0])
    with region(server, kind, 64) as (name, data):
        for _ in range(3):
            x = random(1, 6)
            put(data, 0, x)
            c.infer("net", [lying(kind, "input", (1, 6), (name, 0, 24))], outputs=[asked(kind, (name, 0, 24))])
            np.testing.assert_array_equal(data[:12].copy().view(np.float32).reshape(1, 3), net(x))


@CLIENTS
def test_the_clients_own_functions(server: Running, kind: ModuleType, files: tuple[Path, ...]) -> None:
    c, x, key = client(server, kind), random(2, 6), f"/rta.test-region-{uuid.uuid4().hex}"
    handle = memory.create_shared_memory_region("both", key, 48 + 24)
    try:
        memory.set_shared_memory_region(handle, [x])
        c.register_system_shared_memory("both", key, 72)
        status = c.get_system_shared_memory_status(**({} if kind is http else {"as_json": True}))
        listed = status if kind is http else list(status["regions"].values())
        assert [(r["name"], r["key"], int(r["byte_size"])) for r in listed] == [("both", key, 72)]
        c.infer("net", [lying(kind, "input", (2, 6), ("both", 0, 48))], outputs=[asked(kind, ("both", 48, 24))])
        got = memory.get_contents_as_numpy(handle, np.float32, [2, 3], offset=48)
        np.testing.assert_array_equal(got, rt.load(files[0])(x))
        c.unregister_system_shared_memory()
        assert not client(server, http).get_system_shared_memory_status()
    finally:
        memory.destroy_shared_memory_region(handle)


BAD: dict[str, tuple[str, Any, Any]] = {
    "an unknown region": (
        "one of: .*Register it first",
        lambda n: ("none", 0, 24),
        lambda n: None,
    ),
    "an input behind the end": ("within its 100", lambda n: (n, 77, 24), lambda n: None),
    "an input far behind": ("within its 100", lambda n: (n, 2**61, 24), lambda n: None),
    "an input of another size": ("24, those of FP32", lambda n: (n, 0, 23), lambda n: None),
    "an output behind the end": ("within its 100", lambda n: (n, 0, 24), lambda n: (n, 89, 12)),
    "an output of no size": ("at least 12", lambda n: (n, 0, 24), lambda n: (n, 0, 0)),
    "an output that is too small": ("at least 12", lambda n: (n, 0, 24), lambda n: (n, 0, 11)),
    "an output in an unknown region": ("Register it first", lambda n: (n, 0, 24), lambda n: ("none", 0, 12)),
}


@CLIENTS
@pytest.mark.parametrize("case", BAD)
def test_bad_places_are_refused_and_nothing_is_written(server: Running, kind: ModuleType, case: str) -> None:
    text, source, target = BAD[case]
    with region(server, kind, 100) as (name, data):
        before, wanted = data.copy(), target(name)
        outputs = None if wanted is None else [asked(kind, wanted)]
        with pytest.raises(Exception, match=text):
            client(server, kind).infer("net", [lying(kind, "input", (1, 6), source(name))], outputs=outputs)
        np.testing.assert_array_equal(data, before)


@CLIENTS
def test_a_step_that_has_no_place_for_its_output_is_not_made(
    server: Running, kind: ModuleType, files: tuple[Path, ...]
) -> None:
    c, alone, xs = client(server, kind), rt.load(files[1]), random(3, 1, 3)
    with region(server, kind, 64) as (name, data):
        for t, x in enumerate(xs):
            put(data, 0, x)
            how: dict[str, Any] = {"sequence_id": 31, "sequence_start": t == 0, "sequence_end": t == 2}
            step = [lying(kind, "x_t", (1, 3), (name, 0, 12))]
            with pytest.raises(Exception, match="at least 16"):
                c.infer("gru", step, outputs=[asked(kind, (name, 12, 15))], **how)
            c.infer("gru", step, outputs=[asked(kind, (name, 12, 16))], **how)
            got = data[12:28].copy().view(np.float32).reshape(1, 4)
            np.testing.assert_array_equal(got, alone.step(x, streams=[0]))


@CLIENTS
def test_an_object_that_becomes_shorter_is_an_error_and_no_end(server: Running, kind: ModuleType) -> None:
    c = client(server, kind)
    with object_of(8192) as (key, _):
        c.register_system_shared_memory("shrinks", key, 8192)
        try:
            os.truncate(f"/dev/shm{key}", 4100)
            for place, target in ((4090, None), (6000, None), (0, 4095), (0, 8000)):
                wanted = [asked(kind, None if target is None else ("shrinks", target, 12))]
                with pytest.raises(Exception, match="became shorter"):
                    c.infer("net", [lying(kind, "input", (1, 6), ("shrinks", place, 24))], outputs=wanted)
            assert os.path.getsize(f"/dev/shm{key}") == 4100
            c.infer(
                "net", [lying(kind, "input", (1, 6), ("shrinks", 0, 24))], outputs=[asked(kind, ("shrinks", 0, 12))]
            )
        finally:
            c.unregister_system_shared_memory("shrinks")
    assert c.is_server_live()


REFUSED: dict[str, tuple[str, Any]] = {
    "a key with a folder": ("as shm_open has it", lambda key: ("/../tmp/x", 8, 0)),
    "a key of dots": ("as shm_open has it", lambda key: ("/..", 8, 0)),
    "an empty key": ("as shm_open has it", lambda key: ("", 8, 0)),
    "no object": ("No such file", lambda key: (f"{key}-other", 8, 0)),
    "more than the object has": ("at least 257", lambda key: (key, 257, 0)),
    "an offset behind its end": ("at least 264", lambda key: (key, 8, 256)),
    "no byte": ("at least one byte", lambda key: (key, 0, 0)),
    "more than all may have": ("65,536 bytes together", lambda key: (key, BYTES + 1, 0)),
}


@CLIENTS
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_registered(server: Running, kind: ModuleType, case: str) -> None:
    text, make = REFUSED[case]
    c = client(server, kind)
    with object_of(256) as (key, _), pytest.raises(Exception, match=text):
        c.register_system_shared_memory("bad", *make(key))
    with pytest.raises(Exception, match="Register it first"):
        c.get_system_shared_memory_status("bad")


def test_folders_and_links_are_no_objects(server: Running, tmp_path: Path) -> None:
    c, name = client(server, http), f"rta.test-region-{uuid.uuid4().hex}"
    path = Path("/dev/shm") / name
    for make, remove in ((path.mkdir, path.rmdir), (lambda: path.symlink_to(__file__), path.unlink),
                         (lambda: os.mkfifo(path), path.unlink)):  # fmt: skip
        make()
        try:
            with pytest.raises(Exception, match=r"\[400\] register: got"):
                c.register_system_shared_memory("odd", f"/{name}", 8)
        finally:
            remove()


def shared_objects(descriptors: Path) -> int:
    """How many objects of /dev/shm a process holds open."""
    count = 0
    for descriptor in descriptors.iterdir():
        with suppress(FileNotFoundError):  # a connection closed since it was listed
            count += str(descriptor.readlink()).startswith("/dev/shm")
    return count


@CLIENTS
def test_how_many_and_how_much(server: Running, kind: ModuleType) -> None:
    c, descriptors = client(server, kind), Path(f"/proc/{server.process.pid}/fd")
    with object_of(BYTES) as (key, _):
        before = shared_objects(descriptors)
        for i in range(REGIONS):
            c.register_system_shared_memory(f"r{i}", key, 100, i)
        with pytest.raises(Exception, match="at most 4 regions"):
            c.register_system_shared_memory("one-more", key, 100)
        with pytest.raises(Exception, match="a name for each"):
            c.register_system_shared_memory("r1", key, 100)
        c.unregister_system_shared_memory("r1")
        with pytest.raises(Exception, match="65,536 bytes together"):
            c.register_system_shared_memory("r1", key, BYTES - 299)
        c.register_system_shared_memory("r1", key, BYTES - 300)
        c.unregister_system_shared_memory("r1")
        c.unregister_system_shared_memory("r1")  # nothing to do
        c.unregister_system_shared_memory()
        assert shared_objects(descriptors) == before


@CLIENTS
def test_off_unless_it_is_asked_for(files: tuple[Path, ...], kind: ModuleType) -> None:
    with running(files[0]) as server, object_of(64) as (key, _):
        c = client(server, kind)
        with pytest.raises(Exception, match="--shared-memory"):
            c.register_system_shared_memory("a", key, 64)
        with pytest.raises(Exception, match="--shared-memory is not set"):
            c.infer("net", [lying(kind, "input", (1, 6), ("a", 0, 24))])
        extensions = c.get_server_metadata(**({} if kind is http else {"as_json": True}))["extensions"]
        assert "system_shared_memory" not in extensions


@CLIENTS
def test_memory_of_a_gpu_is_refused(server: Running, kind: ModuleType) -> None:
    c = client(server, kind)
    with pytest.raises(Exception, match="memory of a GPU"):
        c.register_cuda_shared_memory("gpu", b"YWJj", 0, 64)
    status = c.get_cuda_shared_memory_status(**({} if kind is http else {"as_json": True}))
    assert not (status if kind is http else status.get("regions"))
    c.unregister_cuda_shared_memory()


def test_a_tensor_is_in_one_place(server: Running) -> None:
    place = {"shared_memory_region": "a", "shared_memory_byte_size": 24}
    for more, text in (
        ({"data": [0.0] * 6}, "one of them"),
        ({"parameters": {**place, "binary_data_size": 24}}, "one of them"),
        ({"parameters": {**place, "shared_memory_byte_size": "24"}}, "whole numbers of bytes"),
        ({"parameters": {**place, "shared_memory_byte_size": True}}, "whole numbers of bytes"),
        ({"parameters": {**place, "shared_memory_offset": -1}}, "whole numbers of bytes"),
        ({"parameters": {**place, "shared_memory_region": 5}}, "whole numbers of bytes"),
    ):
        tensor = {"name": "input", "datatype": "FP32", "shape": [1, 6], "parameters": place, **more}
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(
                f"http://{server.http}/v2/models/net/infer", json.dumps({"inputs": [tensor]}).encode()
            )
        assert error.value.code == 400
        assert text in json.loads(error.value.read())["error"]
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    with grpc.insecure_channel(str(server.grpc)) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = service_pb2.ModelInferRequest(model_name="net")
        entry = request.inputs.add(name="input", datatype="FP32", shape=[1, 6])
        entry.parameters["shared_memory_region"].string_param = "a"
        entry.parameters["shared_memory_byte_size"].int64_param = 24
        request.raw_input_contents.append(bytes(24))
        with pytest.raises(grpc.RpcError, match=r"Register it first|one for each"):
            stub.ModelInfer(request)
        entry.contents.fp32_contents.extend([0.0] * 6)
        with pytest.raises(grpc.RpcError, match="one of them"):
            stub.ModelInfer(request)


def test_no_byte_outside_of_a_region_is_touched() -> None:
    """Random regions and places, in and out of bounds: what is refused and what is written is as plain arithmetic has it."""
    rng, done = np.random.default_rng(), {True: 0, False: 0}
    port = TensorSpec.of("x", "uint8", (-1,))
    with object_of(400) as (key, data):
        for _ in range(600):
            regions = Regions(Settings(shared_memory=1, shared_memory_bytes=400))
            first, size = int(rng.integers(0, 300)), int(rng.integers(1, 150))
            offset, n, count = int(rng.integers(0, 160)), int(rng.integers(0, 120)), int(rng.integers(0, 120))
            if first + size > 400:
                with pytest.raises(rt.FormatError):
                    regions.register("r", key, first, size)
                continue
            regions.register("r", key, first, size)
            before, place, x = data.copy(), Slice("r", offset, n), rng.integers(0, 256, count).astype(np.uint8)
            if fits := offset + n <= size and count <= n:
                regions.at(place).write(place, x)
                read = regions.at(place).read(place, port, (n,))
                before[first + offset : first + offset + count] = x
                np.testing.assert_array_equal(read, before[first + offset : first + offset + n])
            else:
                with pytest.raises(rt.FormatError):
                    regions.at(place).write(place, x)
            done[fits] += 1
            np.testing.assert_array_equal(data, before)
    assert min(done.values()) > 20
