"""Frames over gRPC (package `grpcio`, extra `edge`): through proxies, with TLS and certificates of both sides."""

from __future__ import annotations

import queue
from concurrent import futures
from typing import Any

from rtaccel.realtime.bridges.bridge import library
from rtaccel.serve.remote.endpoint import Endpoint

METHOD = "/rtaccel.Frames/Call"
HINT = "pip install 'rtaccel[edge]'"


def _grpc() -> Any:
    return library("grpc", "grpcio", HINT)


def _same(payload: Any) -> Any:
    return payload


class GrpcClient:
    """Asks the endpoint at "host:port".

    credentials: of `grpc.ssl_channel_credentials(...)`; None: no encryption. options: of the channel.

    Raises BackendUnavailable without the package.
    """

    most_bytes = None

    def __init__(self, target: str, credentials: Any = None, options: Any = ()) -> None:
        grpc = _grpc()
        limits = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), *options)
        if credentials is None:
            self._channel = grpc.insecure_channel(target, options=limits)
        else:
            self._channel = grpc.secure_channel(target, credentials, options=limits)
        self._call = self._channel.unary_unary(METHOD, request_serializer=_same, response_deserializer=_same)
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def send(self, frame: memoryview) -> None:
        self._call.future(bytes(frame)).add_done_callback(self._done)

    def _done(self, call: Any) -> None:
        if call.exception() is None and (answer := call.result()):
            self._answers.put(answer)  # an empty one is a refusal; a failed call is a lost frame

    def receive(self, timeout_s: float) -> Any:
        try:
            return self._answers.get(timeout=timeout_s) if timeout_s > 0 else self._answers.get_nowait()
        except queue.Empty:
            return None

    def close(self) -> None:
        self._channel.close()


class GrpcServer:
    """Answers calls with an endpoint, from `with` or `start` to `stop`.

    address: "host:port" to listen at; port 0: any free one, which `address` then says.
    credentials: of `grpc.ssl_server_credentials(...)`, with `require_client_auth=True` where clients have certificates too.
    """

    def __init__(self, endpoint: Endpoint, address: str = "127.0.0.1:0", credentials: Any = None) -> None:
        grpc = _grpc()
        self.endpoint = endpoint
        self._server = grpc.server(
            futures.ThreadPoolExecutor(max_workers=2, thread_name_prefix="rtaccel-grpc"),
            options=(("grpc.max_receive_message_length", endpoint.request_bytes + 4096), ("grpc.so_reuseport", 0)),
        )
        handler = grpc.unary_unary_rpc_method_handler(
            self._asked, request_deserializer=_same, response_serializer=_same
        )
        name, method = METHOD.strip("/").split("/")
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {method: handler}),))
        add = self._server.add_insecure_port if credentials is None else self._server.add_secure_port
        port = add(address) if credentials is None else add(address, credentials)
        self.address = f"{address.rpartition(':')[0]}:{port}"

    def _asked(self, frame: bytes, context: Any) -> bytes:
        return self.endpoint.answer(frame, context.peer()) or b""

    def start(self) -> GrpcServer:
        """Starts to answer."""
        self._server.start()
        return self

    def stop(self) -> None:
        """Finishes the calls that came, and answers no more."""
        self._server.stop(grace=1.0).wait()

    def __enter__(self) -> GrpcServer:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()
