"""`EarlyExit`: an option of `fit_budget` by which easy inputs are answered by a smaller model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.core.scheme import Scheme
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.search.cascade.exits import Exit, exit_like
from rtaccel.search.cascade.stages import checked_stages
from rtaccel.search.options import OP, layers_of
from rtaccel.search.workbench import Workbench

MAX_SMALL = 3
"""Models before the last one."""


@dataclass(frozen=True, eq=False)
class EarlyExit:
    """Among the `options=` of `rt.fit_budget`: the plan may be an `rt.Cascade`, whose first stages answer easy inputs.

    small: models that answer the same question sooner, cheap ones first, 3 at most: an `nn.Module` is compiled in each scheme
        among the options, a compiled model is taken as it is. They read what the model reads, and give answers of its shape.
        A gate is such a model, with test="value". None: plans of the model itself that are faster and lose too much alone.
    test: when an answer is sure enough, as of `rt.Cascade.calibrated`: a name, or an `rt.Exit`, whose limit is replaced. One for
        all, or a list with one for each of `small`.

    Limits lie between scores on the calibration data, and the metric judges each cascade as any other plan. A cascade is
    taken where its mean time on the calibration data is less than the time of the best plan alone. The budget is that of the
    longest path, through all stages.

    Raises FormatError for models of another kind, too many of them, and unknown tests.

    >>> import rtaccel as rt
    >>> rt.EarlyExit(test="margin")
    EarlyExit(plans of the model itself, test='margin')
    """

    small: Sequence[Any] | None = None
    test: Any = "confidence"

    def __post_init__(self) -> None:
        small: Any = self.small
        if small is not None:
            if isinstance(small, (nn.Module, CompiledModel)):
                small = (small,)
            if not isinstance(small, Sequence) or not 1 <= len(small) <= MAX_SMALL:
                count = len(small) if isinstance(small, Sequence) else type(small).__name__
                raise FormatError(
                    "EarlyExit",
                    f"small={count}",
                    f"a list of 1 to {MAX_SMALL} models",
                    "Pass a model, or leave it out.",
                )
            for index, model in enumerate(small):
                if not isinstance(model, (nn.Module, CompiledModel)):
                    got = f"small[{index}]: a {type(model).__name__}"
                    raise FormatError("EarlyExit", got, "an nn.Module or a compiled model", "Pass the model itself.")
            object.__setattr__(self, "small", tuple(small))
        object.__setattr__(self, "test", tuple(self._tests()))

    def _tests(self) -> list[Exit]:
        each = isinstance(self.test, Sequence) and not isinstance(self.test, str)
        count = 1 if self.small is None else len(self.small)
        given = list(self.test) if each else [self.test] * count
        if len(given) != count:
            raise FormatError("EarlyExit", f"{len(given)} tests", f"{count}, one for each small model", "Match them.")
        return [exit_like("EarlyExit", one, 0.0) for one in given]

    @property
    def tests(self) -> tuple[Exit, ...]:
        """One for each small model, with limits that mean nothing yet."""
        return tuple(self.test)

    def __repr__(self) -> str:
        of = "plans of the model itself" if self.small is None else f"{len(self.small)} small"
        name = ", ".join(one.test if isinstance(one.test, str) else "a function" for one in self.tests)
        return f"EarlyExit({of}, test={name!r})"


@dataclass(frozen=True)
class Variant:
    """A small model as one stage. name: of what it is and how it is computed. scheme: of each layer, as `rt.compile` takes it;
    None of a model that came compiled."""

    model: CompiledModel
    name: str
    scheme: dict[str, Scheme] | None


def split_off(options: Any) -> tuple[EarlyExit | None, Any]:
    """The early exit among options of a fit, and the others. Raises FormatError for more than one."""
    if isinstance(options, (str, bytes)) or not isinstance(options, Sequence):
        return None, options
    found = [one for one in options if isinstance(one, EarlyExit)]
    if len(found) > 1:
        raise FormatError(OP, f"{len(found)} early exits among the options", "one", "Put all small models into one.")
    rest = [one for one in options if not isinstance(one, EarlyExit)]
    return (found[0], rest or ["float32"]) if found else (None, options)


def variants_of(option: EarlyExit, bench: Workbench, schemes: Sequence[Scheme]) -> list[list[Variant]]:
    """Of each small model the ways to compute it; [] where plans of the model itself are taken.

    Raises ShapeError, UnsupportedProblem or FormatError where the models do not fit the model.
    """
    found: list[list[Variant]] = []
    for index, model in enumerate(option.small or ()):
        name = f"small {index}" if len(option.small or ()) > 1 else "small"
        if isinstance(model, CompiledModel):
            found.append([Variant(model, f"{name} as compiled", None)])
        else:
            found.append(_compiled(name, model, bench, schemes))
        checked_stages("EarlyExit", [found[-1][0].model, bench.exact], None, "hold")
    shape = bench.exact(*bench.args).shape[1:]
    for index, test in enumerate(option.tests):
        test.check_answer("EarlyExit", index, shape)
    return found


def _compiled(name: str, model: nn.Module, bench: Workbench, schemes: Sequence[Scheme]) -> list[Variant]:
    own = Workbench(model, bench.args, bench.calibration)
    found = [Variant(own.exact, f"{name} float32", {})]
    try:
        layers = layers_of(own.graph, schemes, None, [])
    except UnsupportedProblem:
        return found  # nothing in it that schemes are for
    seen = {(0,) * len(layers)}
    for scheme in schemes:
        chosen = tuple(x.options.index(scheme) if scheme in x.options else 0 for x in layers)
        if chosen not in seen:
            seen.add(chosen)
            made = {x.name: x.options[o] for x, o in zip(layers, chosen)}
            found.append(Variant(own.build(made), f"{name} {scheme}", made))
    return found


def is_stage(bench: Workbench) -> str | None:
    """Why the model cannot be a stage of a cascade; None where it can."""
    try:
        checked_stages(OP, [bench.exact], None, "hold")
    except (UnsupportedProblem, FormatError) as error:
        return f"the model is {error.got}, not {error.expected}"
    except Exception as error:
        return str(error).splitlines()[0]
    if len(bench.args) != 1:
        return "it takes more than one tensor"
    return None


def least(ns: np.ndarray) -> float:
    """Microseconds of interleaved calls, as little of the machine's other work in them as there is."""
    return float(np.quantile(ns, 0.25)) * 1e-3
