"""Frames in datagrams, one each: the least that a LAN costs. Nothing is encrypted; a key authenticates."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress
from typing import Any

from rtaccel.core.errors import FormatError
from rtaccel.serve.remote.endpoint import Endpoint, check_size

MAX_BYTES = 65507
"""Of a datagram over IPv4. Beyond 1472 the network cuts it into packets, and loses it with any of them."""

BUFFER_BYTES = 1 << 20
"""Asked for at a socket; the system may give less."""

Address = tuple[str, int]


def _socket(address: Any) -> tuple[socket.socket, Any]:
    good = isinstance(address, (tuple, list)) and len(address) == 2 and isinstance(address[0], str)
    if not good or isinstance(address[1], bool) or not isinstance(address[1], int) or not 0 <= address[1] < 65536:
        raise FormatError("udp", f"address {address!r}", "(host, port)", 'Pass ("10.0.0.5", 9000).')
    family, kind, protocol, _, place = socket.getaddrinfo(address[0], address[1], type=socket.SOCK_DGRAM)[0]
    made = socket.socket(family, kind, protocol)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        made.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
    return made, place


class UdpClient:
    """Asks an endpoint at (host, port). Raises FormatError for what is no address, OSError where the host is not found."""

    most_bytes = MAX_BYTES

    def __init__(self, address: Address) -> None:
        self._socket, place = _socket(address)
        self._socket.connect(place)
        self._into = bytearray(MAX_BYTES + 1)
        self._view = memoryview(self._into)

    def send(self, frame: memoryview) -> None:
        # Nobody is there, or the queue is full: it is lost, as any datagram may be.
        with suppress(ConnectionRefusedError, BlockingIOError):
            self._socket.send(frame, socket.MSG_DONTWAIT)

    def receive(self, timeout_s: float) -> Any:
        found = self._there()
        # A socket's own timeout counts in milliseconds; select counts in microseconds.
        if found is None and timeout_s > 0 and select.select([self._socket], [], [], timeout_s)[0]:
            found = self._there()
        return found

    def _there(self) -> Any:
        try:
            return self._view[: self._socket.recv_into(self._into, 0, socket.MSG_DONTWAIT)]
        except (BlockingIOError, ConnectionRefusedError):
            return None

    def close(self) -> None:
        self._socket.close()


class UdpServer:
    """Answers datagrams with an endpoint, in a thread of its own, from `with` or `start` to `stop`.

    address: (host, port) to listen at; port 0: any free one, which `address` then says. peers are told apart by where they send
        from.
    """

    def __init__(self, endpoint: Endpoint, address: Address = ("127.0.0.1", 0)) -> None:
        check_size(MAX_BYTES, endpoint.request_bytes, endpoint.answer_bytes)
        self.endpoint = endpoint
        self._socket, place = _socket(address)
        try:
            self._socket.bind(place)
        except OSError:
            self._socket.close()
            raise
        self.address: Address = self._socket.getsockname()[:2]
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> UdpServer:
        """Starts to answer."""
        self._socket.settimeout(0.2)  # so that it sees the end
        self._thread = threading.Thread(target=self._run, name="rtaccel-udp", daemon=True)
        self._thread.start()
        return self

    def _run(self) -> None:
        into = bytearray(MAX_BYTES + 1)
        receive, send, answer = self._socket.recvfrom_into, self._socket.sendto, self.endpoint.answer
        while not self._ending.is_set():
            try:
                size, peer = receive(into)
                found = answer(into, peer, size)
                if found is not None:
                    send(found, peer)
            except TimeoutError:
                continue
            except OSError:
                if self._ending.is_set():
                    return
                continue  # an answer that cannot be delivered is lost

    def stop(self) -> None:
        """Answers no more, and closes the socket."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
        self._socket.close()

    def __enter__(self) -> UdpServer:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()
