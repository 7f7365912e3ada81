"""What can be set of a server, checked once."""

from __future__ import annotations

from dataclasses import dataclass, fields

from rtaccel.core.errors import FormatError


@dataclass(frozen=True)
class Settings:
    """Of a Server. Raises FormatError for what does not fit.

    host, port, grpc_port: where it listens; port 0: a free one; grpc_port None: no gRPC.
    max_batch: most rows of one native call that several requests share; 1: each request alone.
    max_body_bytes: of one request. max_requests: under way at once; more are refused as full.
    sequence_idle_s: a sequence without a request for so long is given up where another one needs its stream.
    body_s: so long a client may take to send a body.
    drain_s: so long after SIGTERM requests under way may take. drain_delay_s: so long before that it is not ready and
        still answers, for load balancers to notice.
    tls_cert, tls_key: PEM files; tls_client_ca: clients must show a certificate of this authority.
    tokens: bearer tokens of which a request must bring one; empty: none is asked for.
    repository: whether models may be loaded anew and unloaded by request.
    shared_memory: how many regions of this machine's shared memory clients may register; 0: none. They name objects that the
        server then reads and writes with its own rights. shared_memory_bytes: of all of them together.
    threads: most threads of a native call.
    name: of the server, in its metadata: some clients look for one.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = 8001
    max_batch: int = 64
    max_body_bytes: int = 64 << 20
    max_requests: int = 1024
    sequence_idle_s: float = 60.0
    body_s: float = 30.0
    drain_s: float = 30.0
    drain_delay_s: float = 0.0
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    tokens: tuple[str, ...] = ()
    repository: bool = False
    shared_memory: int = 0
    shared_memory_bytes: int = 1 << 30
    threads: int = 1
    name: str = "rtaccel"

    def __post_init__(self) -> None:
        for name, low, high in (
            ("port", 0, 65535),
            ("grpc_port", 0, 65535),
            ("max_batch", 1, 1 << 20),
            ("max_body_bytes", 1, 1 << 40),
            ("max_requests", 1, 1 << 20),
            ("threads", 1, 32),
            ("shared_memory", 0, 1 << 16),
            ("shared_memory_bytes", 1, 1 << 40),
        ):
            value = getattr(self, name)
            if value is None and name == "grpc_port":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise FormatError("serve", f"{name}={value!r}", f"a whole number, {low} to {high}", "Pass one.")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_s") and not (isinstance(value, (int, float)) and 0 <= value <= 1e6):
                raise FormatError("serve", f"{field.name}={value!r}", "seconds, 0 or more", "Pass a number.")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise FormatError("serve", "one of tls_cert and tls_key", "both or none", "Pass both files.")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise FormatError("serve", "tls_client_ca alone", "tls_cert and tls_key with it", "Pass all three files.")
        if not isinstance(self.name, str) or not 0 < len(self.name) <= 128:
            raise FormatError("serve", f"name={str(self.name)[:40]!r}", "a text of 1 to 128 characters", "Pass one.")
        if any(not token or token != token.strip() or not token.isascii() for token in self.tokens):
            raise FormatError("serve", "a token that is empty or has spaces", "ASCII text", "Write other tokens.")
