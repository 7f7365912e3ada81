"""What the C library says, as a typed error."""

from __future__ import annotations

from rtaccel.core.errors import BackendUnavailable, FormatError, RtaccelError, ShapeError, UnsupportedProblem

_SHAPE, _NO_KERNEL, _BAD_ARGUMENT, _OTHER, _NO_FIT, _CANNOT_READ = -1, 6, 8, 9, 7, 1  # as rta_model.h has them


def typed(op: str, what: str, error: ValueError) -> RtaccelError:
    """The typed error of what the C library said."""
    if len(error.args) != 2:
        return FormatError(op, f"{what}: {error}", "a model that rt.save wrote", "Save it again.")
    code, text = error.args
    if code == _SHAPE:
        return ShapeError(
            op, text, f"arrays that fit {what}, as they lie", "See .inputs and .outputs; nothing is cast."
        )
    if code == _NO_KERNEL:
        return BackendUnavailable(op, text, "a kernel for every stage", "Load it with a build that has them.")
    if code == _CANNOT_READ:
        return FormatError(op, text, "a file that can be read", "Look at the path, and at who writes it.")
    if code == _NO_FIT:
        return FormatError(op, text, "the same model with other weights", "Nothing was changed.")
    if code == _OTHER:
        return UnsupportedProblem(op, text, "what this system allows", "See rtaccel info.")
    if code == _BAD_ARGUMENT:
        return FormatError(op, text, "numbers that every stage takes", "No result is given; mend the input.")
    return FormatError(op, f"{what}: {text}", "a model that rt.save wrote", "Save it again, or fetch the file again.")
