"""Frames over gRPC (package `grpcio`, extra `edge`): through proxies, with TLS and certificates of both sides."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

from rtaccel.core.errors import FormatError
from rtaccel.realtime.bridges.bridge import library
from rtaccel.serve.remote.endpoint import Endpoint

CALL, STREAM = "/rtaccel.Frames/Call", "/rtaccel.Frames/Stream"
"""A frame there and its answer back; and any number of both in one call, which spares what beginning a call takes."""
HINT = "pip install 'rtaccel[edge]'"
FLUSH_S = 0.05
"""That answers have, from a stop until their stream is ended."""


def _grpc() -> Any:
    return library("grpc", "grpcio", HINT)


def _same(payload: Any) -> Any:
    return payload


class _Stream:
    """Frames in one call, whose answers its deserializer takes. broken: it carries nothing any more."""

    def __init__(self, call: Any) -> None:
        self._out: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.broken = False
        self._call = call(iter(self._out.get, None))
        self._thread = threading.Thread(target=self._read, name="rtaccel-grpc-answers", daemon=True)
        self._thread.start()

    def send(self, frame: bytes) -> None:
        self._out.put(frame)

    def _read(self) -> None:
        try:
            for _ in self._call:  # asks for the next one; whoever waits has this one already
                pass
        except Exception:  # whatever ended it: its frames are lost ones
            pass
        finally:
            self.broken = True
            self._out.put(None)

    def close(self) -> None:
        self._out.put(None)
        self._call.cancel()
        self._thread.join(1.0)


class GrpcClient:
    """Asks the endpoint at "host:port".

    credentials: of `grpc.ssl_channel_credentials(...)`; None: no encryption. options: of the channel.
    stream: frames go in one long call, which takes a third less than a call for each. False: a call for each, for proxies that
        divide calls among endpoints, and for more clients than the server has streams for.

    A stream that ends, as when the endpoint starts anew, loses what is under way; the next frame begins another. Raises
    BackendUnavailable without the package.
    """

    most_bytes = None

    def __init__(self, target: str, credentials: Any = None, options: Any = (), stream: bool = True) -> None:
        grpc = _grpc()
        limits = (
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),  # a connection of its own, by which the endpoint tells senders apart
            *options,
        )
        if credentials is None:
            self._channel = grpc.insecure_channel(target, options=limits)
        else:
            self._channel = grpc.secure_channel(target, credentials, options=limits)
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._call = self._channel.unary_unary(CALL, request_serializer=_same, response_deserializer=_same)
        self._begin: Any = None
        if stream:
            taken = {"request_serializer": _same, "response_deserializer": self._came}
            self._begin = self._channel.stream_stream(STREAM, **taken)
        self._stream: _Stream | None = None

    def send(self, frame: memoryview) -> None:
        if self._begin is None:
            self._call.future(bytes(frame)).add_done_callback(self._done)
            return
        if self._stream is None or self._stream.broken:
            self._stream = _Stream(self._begin)
        self._stream.send(bytes(frame))

    def _came(self, answer: bytes) -> bytes:
        """On the thread that receives: through the one that reads the stream it would be one more change of threads."""
        self._answers.put(answer)
        return answer

    def _done(self, call: Any) -> None:
        if call.exception() is None and (answer := call.result()):
            self._answers.put(answer)  # an empty one is a refusal; a failed call is a lost frame

    def receive(self, timeout_s: float) -> Any:
        try:
            return self._answers.get(timeout=timeout_s) if timeout_s > 0 else self._answers.get_nowait()
        except queue.Empty:
            return None

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._channel.close()


class GrpcServer:
    """Answers calls and streams with an endpoint, from `with` or `start` to `stop`.

    address: "host:port" to listen at; port 0: any free one, which `address` then says.
    credentials: of `grpc.ssl_server_credentials(...)`, with `require_client_auth=True` where clients have certificates too.
    streams: clients with a stream at once, each of which has a thread; of one more, frames are lost.

    Raises BackendUnavailable without the package, FormatError for streams below 1.
    """

    def __init__(
        self, endpoint: Endpoint, address: str = "127.0.0.1:0", credentials: Any = None, streams: int = 64
    ) -> None:
        grpc = _grpc()
        if isinstance(streams, bool) or not isinstance(streams, int) or streams < 1:
            raise FormatError("GrpcServer", f"streams={streams!r}", "a positive number", "64 is a good start.")
        self.endpoint, self._code = endpoint, grpc.StatusCode.RESOURCE_EXHAUSTED
        self._places, self._open = threading.Semaphore(streams), set[Any]()
        self._server = grpc.server(
            futures.ThreadPoolExecutor(max_workers=streams + 2, thread_name_prefix="rtaccel-grpc"),
            options=(("grpc.max_receive_message_length", endpoint.request_bytes + 4096), ("grpc.so_reuseport", 0)),
        )
        said = {"request_deserializer": _same, "response_serializer": _same}
        name, call = CALL.strip("/").split("/")
        handlers = {
            call: grpc.unary_unary_rpc_method_handler(self._asked, **said),
            STREAM.rpartition("/")[2]: grpc.stream_stream_rpc_method_handler(self._streamed, **said),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
        add = self._server.add_insecure_port if credentials is None else self._server.add_secure_port
        port = add(address) if credentials is None else add(address, credentials)
        self.address = f"{address.rpartition(':')[0]}:{port}"

    def _asked(self, frame: bytes, context: Any) -> bytes:
        return self.endpoint.answer(frame, context.peer()) or b""

    def _streamed(self, frames: Any, context: Any) -> Iterator[bytes]:
        if not self._places.acquire(blocking=False):
            context.abort(self._code, "every stream of this endpoint is in use")
        self._open.add(context)
        peer = context.peer()
        try:
            for frame in frames:
                answer = self.endpoint.answer(frame, peer)
                if answer is not None:
                    yield answer
        finally:
            self._open.discard(context)
            self._places.release()

    def start(self) -> GrpcServer:
        """Starts to answer."""
        self._server.start()
        return self

    def stop(self) -> None:
        """Finishes the calls that came, and answers no more."""
        ended = self._server.stop(grace=1.0)
        if self._open:
            time.sleep(FLUSH_S)
        for context in list(self._open):
            context.cancel()
        ended.wait()

    def __enter__(self) -> GrpcServer:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()
