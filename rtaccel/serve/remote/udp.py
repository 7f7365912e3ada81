"""Frames in datagrams, one each: the least that a LAN costs. Nothing is encrypted; a key authenticates."""

from __future__ import annotations

import select
import socket
from contextlib import suppress
from typing import Any

from rtaccel import _native as native
from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.serve.frames import Reader, Writer
from rtaccel.serve.frames.end import Head
from rtaccel.serve.frames.refusal import REASONS
from rtaccel.serve.remote.endpoint import Endpoint, check_size
from rtaccel.serve.remote.transport import Link

MAX_BYTES = 65507
"""Of a datagram over IPv4. Beyond 1472 the network cuts it into packets, and loses it with any of them."""

BUFFER_BYTES = 1 << 20
"""Asked for at a socket; the system may give less."""

LONGEST_S = 1e9
"""Of a wait; the native side counts in nanoseconds."""

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
    """Asks an endpoint at (host, port). A `Remote` writes, sends, receives and checks frames here in native code.

    spin_us: so long an answer is looked for without sleeping: it spares the time to wake up, and takes a core meanwhile.

    Raises FormatError for what is no address, OSError where the host is not found.
    """

    most_bytes: int | None = MAX_BYTES

    def __init__(self, address: Address, spin_us: float = 0.0) -> None:
        self._spin_ns = _spin_ns(spin_us)
        self._socket, place = _socket(address)
        self._socket.connect(place)
        self._into = bytearray(MAX_BYTES + 1)
        self._view = memoryview(self._into)

    def frame_link(self, writer: Writer, reader: Reader) -> UdpLink:
        """Both ends of its frames, in native code."""
        return UdpLink(self, writer, reader, native.UdpLink(self._fd(), writer.native, reader.native, self._spin_ns))

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

    def _fd(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()


class UdpLink(Link):
    """As Link, without Python between a frame and its socket."""

    def __init__(self, client: UdpClient, writer: Writer, reader: Reader, made: Any) -> None:
        super().__init__(client, writer, reader)
        self._fd, self._native, self._guard, self._session = client._fd, made, reader.guard, writer.session

    def post(self, sequence: int, stamp_ns: int) -> None:
        self._open()
        self._native.post(self._session, sequence, stamp_ns)

    def take(self, timeout_s: float) -> Head | str | None:
        self._open()
        found = self._native.take(int(min(timeout_s, LONGEST_S) * 1e9), self._session, self._guard)
        if found is None:
            return None
        return Head("answer", *found[2:]) if found[0] == 0 else REASONS[found[0]][0]

    def _open(self) -> None:
        if self._fd() < 0:  # its number may be another file's by now
            raise UnsupportedProblem("udp", "a client that was closed", "an open one", "Make another.")


class UdpServer:
    """Answers datagrams with an endpoint, in a native thread, from `with` or `start` to `stop`.

    address: (host, port) to listen at; port 0: any free one, which `address` then says. peers are told apart by where they send
        from.
    spin_us: after each datagram it looks for the next one for so long without sleeping, on a core.

    The thread needs no GIL for a model that is one native plan. Nobody else can call that model while the server runs:
    UnsupportedProblem says so.
    """

    def __init__(self, endpoint: Endpoint, address: Address = ("127.0.0.1", 0), spin_us: float = 0.0) -> None:
        check_size(MAX_BYTES, endpoint.request_bytes, endpoint.answer_bytes)
        self._spin_ns = _spin_ns(spin_us)
        self.endpoint = endpoint
        self._socket, place = _socket(address)
        try:
            self._socket.bind(place)
        except OSError:
            self._socket.close()
            raise
        self.address: Address = self._socket.getsockname()[:2]
        self._native: Any = None

    def start(self) -> UdpServer:
        """Starts to answer. Raises UnsupportedProblem where a loop or another server has the model."""
        try:
            self._native = native.UdpServer(self.endpoint.native, self._socket.fileno(), self._spin_ns)
        except ValueError as error:
            raise UnsupportedProblem("udp", str(error), "a model of its own", "Stop the other one first.") from None
        return self

    def stop(self) -> None:
        """Answers no more, and closes the socket."""
        if self._native is not None:
            self._native.stop()
        self._socket.close()

    def __enter__(self) -> UdpServer:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()


def _spin_ns(spin_us: float) -> int:
    good = isinstance(spin_us, (int, float)) and not isinstance(spin_us, bool) and 0 <= spin_us <= 1e6
    if not good:
        raise FormatError("udp", f"spin_us={spin_us!r}", "microseconds, from 0 to a second", "Pass 0 to sleep.")
    return int(spin_us * 1e3)
