"""What every request passes, REST or gRPC: tokens, the limit of requests under way, the drain."""

from __future__ import annotations

import hashlib
import hmac
import logging

from rtaccel.core.errors import RtaccelError
from rtaccel.serve.v2.refusals import Draining, Full, NoToken
from rtaccel.serve.v2.repository import Repository
from rtaccel.serve.v2.settings import Settings
from rtaccel.serve.v2.shared_memory import Regions

EXTENSIONS = ("binary_tensor_data", "sequence", "statistics", "model_repository", "model_configuration")

log = logging.getLogger("rtaccel.serve")


class Gate:
    """State of a server that REST and gRPC share."""

    def __init__(self, repository: Repository, settings: Settings) -> None:
        self.repository, self.settings = repository, settings
        self.regions = Regions(settings)
        self.ready = True  # for load balancers
        self.open = True  # for requests
        self.under_way = 0
        self.total = self.refused = self.faults = 0
        self._digests = tuple(_digest(token) for token in settings.tokens)

    def check_token(self, authorization: str | None) -> None:
        """Raises NoToken unless the header holds one of the tokens; takes as long for any other."""
        if not self._digests:
            return
        scheme, _, token = (authorization or "").partition(" ")
        given = _digest(token.strip())
        known = [hmac.compare_digest(given, digest) for digest in self._digests]
        if scheme.lower() != "bearer" or not any(known):
            raise NoToken("serve", "a request without a valid token", "Authorization: Bearer TOKEN", "Send a token.")

    def enter(self) -> None:
        """Before an inference; `leave` follows in any case. Raises Draining and Full."""
        self.total += 1
        if not self.open:
            self.refused += 1
            raise Draining("infer", "a request while the server ends", "a server that runs", "Ask another one.")
        if self.under_way >= self.settings.max_requests:
            self.refused += 1
            most = self.settings.max_requests
            raise Full("infer", f"{most} requests under way", f"fewer than {most}", "Try again later.")
        self.under_way += 1

    @property
    def extensions(self) -> list[str]:
        """Parts of the protocol that are served beside its core."""
        return [*EXTENSIONS, *(["system_shared_memory"] if self.settings.shared_memory else [])]

    def leave(self) -> None:
        self.under_way -= 1

    def fault(self, error: Exception) -> str:
        """An error that is not typed: it goes to the log, and what the client is told has nothing of it."""
        self.faults += 1
        if not isinstance(error, RtaccelError):
            log.error("a fault of rtaccel", exc_info=error)
        return "serve: a fault of the server; its log has it."

    def numbers(self) -> dict[str, int]:
        return {
            "requests_under_way": self.under_way,
            "requests_total": self.total,
            "requests_refused_total": self.refused,
            "faults_total": self.faults,
            "ready": int(self.ready and self.repository.ready),
            "sequences_given_up_total": sum(m.sequences.given_up for m in self.repository if m.sequences is not None),
        }


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
