"""A target on the command line: which model is meant, and how it is compiled.

`package.module:name` or `path/to/file.py:name`. The name is a function without arguments, or an object, that gives
`(model, example_inputs)` or `(model, example_inputs, calibration)`: a torch module in eval mode (or one that is compiled
already), the arguments of one call, and batches for static int8 scales.

    def policy():
        model = build().eval()
        model.load_state_dict(torch.load("policy.pt", weights_only=True))
        return model, (torch.randn(1, 48),), [torch.randn(256, 48)]

Code is imported, as `python -m` would; files of pickled objects are never opened.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtaccel.core.errors import FormatError, RtaccelError, UnsupportedProblem

if TYPE_CHECKING:
    from rtaccel.runtime.compiled import CompiledModel
    from rtaccel.runtime.eager_fallback import UncapturedModel
    from rtaccel.runtime.guarded import GuardedModel

HELP = (
    "package.module:name or file.py:name, which gives (model, example_inputs) or (model, example_inputs, calibration)"
)

GIVES = "a function or object that gives (model, example_inputs) or (model, example_inputs, calibration)"

SAVED = ".rta"
"""What rt.save wrote."""

PICKLED = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".safetensors", ".npz", ".onnx")
"""Files of weights or of pickled objects: no model by themselves."""


class UserCodeRaised(Exception):
    """What code of the user's raised while a target was imported or made. cause: that error."""

    def __init__(self, cause: BaseException) -> None:
        self.cause = cause
        super().__init__(f"{type(cause).__name__}: {cause}")


@contextmanager
def user_code() -> Iterator[None]:
    """Marks what is raised inside as the user's. A SystemExit too: the code of a target must not end the command."""
    try:
        yield
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise UserCodeRaised(error) from error


@dataclass(frozen=True)
class Target:
    """text: as it was given. model: a torch module, or a compiled model. calibration: None where there is none."""

    text: str
    model: Any
    inputs: tuple[Any, ...]
    calibration: Any = None


def add_target(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    """The target and how to compile it. optional: the verb has something to do without one."""
    parser.add_argument("target", metavar="TARGET", nargs="?" if optional else None, help=HELP)
    add_compile_options(parser)


def add_compile_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scheme", default="float32", help="of the weights, such as w8a8 (%(default)s)")
    parser.add_argument("--backend", help="force a backend, see `rtaccel info`")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where it runs (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="most threads of a call (%(default)d)")


def load_target(text: str) -> Target:
    """Imports the code and calls the function.

    Raises FormatError with what is wrong, and UserCodeRaised with what that code raised.
    """
    where, colon, name = text.rpartition(":")
    if Path(where or name).suffix == SAVED:
        raise FormatError(
            "target", text, GIVES,
            "It is compiled already: rt.load(file).explain() has its stages, and rt.measure(rt.load(file), inputs) times it.",
        )  # fmt: skip
    if Path(where or name).suffix in PICKLED:
        raise FormatError(
            "target", text, GIVES,
            "Such a file is not opened: pickles run code, and weights are no model. Write a function that builds the "
            "model and loads it, with weights_only=True.",
        )  # fmt: skip
    if not colon or not where or not name:
        raise FormatError(
            "target", repr(text), "package.module:name or file.py:name", "Name the function after a colon."
        )
    module = load_module(where, text)
    with user_code():
        found = getattr(module, name, None)
    if found is None:
        raise FormatError("target", f"{text}, and there is no {name!r} in it", GIVES, "Correct the name.")
    if callable(found) and not _is_module(found):
        with user_code():
            found = found()
    return _unpack(found, text)


def _is_module(found: object) -> bool:
    from torch import nn

    return isinstance(found, nn.Module)


def load_module(where: str, text: str) -> Any:
    if where.endswith(".py"):
        path = Path(where).resolve()
        if not path.is_file():
            raise FormatError("target", text, "a file that exists", f"There is no {path}.")
        name = f"_target_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None  # the suffix is .py
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses and pickling of its classes look it up
        sys.path.insert(0, str(path.parent))  # as for a script: its neighbors can be imported
        with user_code():
            spec.loader.exec_module(module)
        return module
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    if not all(part.isidentifier() for part in where.split(".")):
        raise FormatError("target", repr(text), "package.module:name or file.py:name", "Name a module or a .py file.")
    try:
        with user_code():
            return importlib.import_module(where)
    except UserCodeRaised as raised:
        error = raised.cause
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and (where == missing or where.startswith(f"{missing}.")):
            raise FormatError(
                "target", text, "a module that can be imported from here", f"{error}; for a file, write file.py:name."
            ) from error
        raise


def _unpack(given: Any, text: str) -> Target:
    if not isinstance(given, (tuple, list)) or len(given) not in (2, 3) or not _is_module(given[0]):
        got = type(given).__name__
        if isinstance(given, (tuple, list)):
            got += " of " + ", ".join(type(item).__name__ for item in given)
        raise FormatError("target", f"{text}, which gives {got}", GIVES, "Return both; the model is a torch module.")
    model, inputs, *rest = given
    inputs = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    return Target(text, model, inputs, rest[0] if rest else None)


def compile_target(target: Target, args: argparse.Namespace) -> CompiledModel | GuardedModel | UncapturedModel:
    """The target compiled as the options say. A compiled one is taken as it is; options for it are refused."""
    from rtaccel.runtime.compiled import CompiledModel
    from rtaccel.runtime.compiler import compile
    from rtaccel.runtime.dynamic import DynamicModel

    if isinstance(target.model, CompiledModel):
        if (args.scheme, args.backend, args.device, args.threads) != ("float32", None, "cpu", 1):
            raise UnsupportedProblem(
                "target", f"{target.text}, which is compiled already, with options", "no --scheme, --backend, --device, "
                "--threads", "Leave them out, or give the torch module.",
            )  # fmt: skip
        return target.model
    try:
        compiled = compile(
            target.model, target.inputs, args.scheme, calibration=target.calibration, device=args.device,
            backend=args.backend, threads=args.threads,
        )  # fmt: skip
        assert not isinstance(compiled, DynamicModel)
        return compiled
    except FormatError as error:
        cause = error.__cause__
        if cause is not None and str(error.got).startswith("calibration that raised"):
            raise cause from None  # it is the user's loader, whose frames say more
        raise
    except RtaccelError:
        raise
    except Exception:
        _call(target)  # a model that fails on its own example is the user's, even where every frame is torch's
        raise


def _call(target: Target) -> None:
    import torch

    with torch.no_grad(), user_code():
        target.model(*target.inputs)


def compile_words(args: argparse.Namespace) -> list[str]:
    """The options that are not the default, to repeat the command."""
    words = []
    for name, default in (("scheme", "float32"), ("backend", None), ("device", "cpu"), ("threads", 1)):
        if getattr(args, name) != default:
            words += [f"--{name}", str(getattr(args, name))]
    return words
