"""Why a request is not answered: typed errors, with the status that REST and gRPC have for each."""

from __future__ import annotations

from rtaccel.core.errors import BackendUnavailable, FormatError, RtaccelError, ShapeError, UnsupportedProblem


class Refusal(RtaccelError):
    """A request that is refused. http: the status of REST; grpc: the name of gRPC's."""

    http = 400
    grpc = "INVALID_ARGUMENT"


class UnknownModel(Refusal):
    http, grpc = 404, "NOT_FOUND"


class UnknownRegion(Refusal):
    """A region of shared memory that was not registered."""


class UnknownSequence(Refusal):
    """A step of a sequence that was not started, has ended, or was given up."""


class TooLate(Refusal):
    """The deadline is over, or will be: the work was not begun."""

    http, grpc = 504, "DEADLINE_EXCEEDED"


class Full(Refusal):
    """No place for it now: another try later may find one."""

    http, grpc = 503, "RESOURCE_EXHAUSTED"


class Draining(Refusal):
    http, grpc = 503, "UNAVAILABLE"


class TooLarge(Refusal):
    http, grpc = 413, "RESOURCE_EXHAUSTED"


class NoToken(Refusal):
    http, grpc = 401, "UNAUTHENTICATED"


class SlowBody(Refusal):
    http, grpc = 408, "CANCELLED"


class WrongMethod(Refusal):
    http, grpc = 405, "UNIMPLEMENTED"


class NotServed(Refusal):
    """A part of the protocol that this server does not have."""

    http, grpc = 501, "UNIMPLEMENTED"


def status_of(error: RtaccelError) -> tuple[int, str]:
    """(status of REST, name of gRPC's status) of a typed error."""
    if isinstance(error, Refusal):
        return error.http, error.grpc
    if isinstance(error, (ShapeError, FormatError)):
        return 400, "INVALID_ARGUMENT"
    if isinstance(error, UnsupportedProblem):
        return 400, "FAILED_PRECONDITION"
    if isinstance(error, BackendUnavailable):
        return 500, "FAILED_PRECONDITION"
    return 500, "INTERNAL"
