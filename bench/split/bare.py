"""What a library takes by itself: 256 bytes there and back from Python, with nothing done to them. The floors of the transports
that use it."""

from __future__ import annotations

import queue
import socket
from collections.abc import Callable
from concurrent import futures
from typing import Any

PAYLOAD = bytes(256)
KINDS = ("bare udp", "bare zenoh", "bare grpc")
KEY = "rtaccel/bench/bare"


def echo(kind: str, ready: Any, stop: Any) -> None:
    """In a process of its own, until it is told to stop: a datagram without bytes, or `stop`."""
    if kind == "bare udp":
        end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        end.bind(("127.0.0.1", 0))
        ready.put((end.getsockname(), b""))
        while (found := end.recvfrom(65536))[0]:  # blocking: a timeout costs a poll for each
            end.sendto(*found)
        return
    if kind == "bare zenoh":
        from rtaccel.serve.remote.zenoh import at_once, open_session  # as the transport opens one

        session = open_session()
        publisher = session.declare_publisher(f"{KEY}/answer")
        held = session.declare_subscriber(f"{KEY}/request", at_once(lambda s: publisher.put(s.payload.to_bytes())))
        ready.put((KEY, b""))
        stop.wait()
        held.undeclare()
        session.close()
        return
    import grpc

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    handler = grpc.stream_stream_rpc_method_handler(lambda frames, context: iter(frames), _same, _same)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare.Frames", {"Stream": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    ready.put((f"127.0.0.1:{port}", b""))
    stop.wait()
    server.stop(0)


def asking(kind: str, address: Any) -> tuple[Callable[[], Any], Callable[[], None]]:
    """(one round trip, the end of it)."""
    if kind == "bare udp":
        plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        plain.connect(tuple(address))
        return lambda: (plain.send(PAYLOAD), plain.recv(65536)), lambda: (plain.send(b""), plain.close())[1]
    if kind == "bare zenoh":
        from rtaccel.serve.remote.zenoh import at_once, open_session

        session, came = open_session(), queue.SimpleQueue[bytes]()
        publisher = session.declare_publisher(f"{KEY}/request")
        held = session.declare_subscriber(f"{KEY}/answer", at_once(lambda s: came.put(s.payload.to_bytes())))

        def there_and_back() -> Any:
            publisher.put(PAYLOAD)
            return came.get(timeout=1)

        for _ in range(50):  # it needs a moment to find its peer
            try:
                there_and_back()
                break
            except queue.Empty:
                continue
        return there_and_back, lambda: (held.undeclare(), session.close())[1]
    import grpc

    channel, out = grpc.insecure_channel(address), queue.SimpleQueue[bytes | None]()
    answers = channel.stream_stream("/bare.Frames/Stream", _same, _same)(iter(out.get, None))
    return lambda: (out.put(PAYLOAD), next(answers)), lambda: (out.put(None), channel.close())[1]


def _same(payload: Any) -> Any:
    return payload
