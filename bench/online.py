"""One update of an online linear model, ours beside others', in interleaved rounds: python -m bench.online [--json FILE].

Ours is a bound call of RLSHead, learn_one from Python, and learn_many, which is our own loop. The others are least squares as
people write it: Numba (fused, float32, called from Python and in its own loop), NumPy and SciPy's BLAS (float64), all in the
covariance form, and river (a linear model by SGD, and Bayesian linear regression). A figure is the smallest mean of a round; all
run in this process, one after the other in each round. The time of a step of a Bank and of Records comes last.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from rtaccel import _native
from rtaccel.online import Bank, Records, RLSHead
from rtaccel.online.features import Count, Ewma, First, LogCount, Mean

FORGET = 0.9999
SIZES = (16, 64, 128, 256)
OUTPUTS = (1, 12)

Run = Callable[[int], None]
"""Makes so many updates."""


def repeated(call: Callable[[], object]) -> Run:
    def run(count: int) -> None:
        for _ in range(count):
            call()

    return run


def ours(n: int, outputs: int) -> dict[str, Run]:
    rng = np.random.default_rng(0)
    phi, y = rng.normal(size=n).astype(np.float32), rng.normal(size=outputs).astype(np.float32)
    out, head, direct, many = np.empty(outputs, np.float32), *(RLSHead(n, outputs) for _ in range(3))

    def loop(count: int) -> None:
        many.learn_many(np.broadcast_to(phi, (count, n)), np.broadcast_to(y, (count, outputs)))

    return {
        "rtaccel, bound": repeated(head.bind(phi, y, out=out)),
        "rtaccel, learn_one": repeated(lambda: direct.learn_one(phi, y)),
        "rtaccel, learn_many": loop,
    }


def numpy_covariance(n: int) -> Callable[[], object]:
    rng = np.random.default_rng(0)
    p, w, x = np.eye(n), np.zeros(n), rng.normal(size=n)

    def step() -> None:
        nonlocal p, w
        px = p @ x
        k = px / (FORGET + x @ px)
        w = w + k * (1.0 - w @ x)
        p = (p - np.outer(k, px)) / FORGET

    return step


def scipy_blas(n: int) -> Callable[[], object]:
    from scipy.linalg import blas

    rng = np.random.default_rng(0)
    p, w, x = np.asfortranarray(np.eye(n)), np.zeros(n), rng.normal(size=n)

    def step() -> None:
        nonlocal p
        px = blas.dsymv(1.0, p, x, lower=1)
        gain = 1.0 / (FORGET + x @ px)
        blas.daxpy(px, w, a=gain * (1.0 - w @ x))
        p = blas.dsyr(-gain, px, lower=1, a=p, overwrite_a=1)
        p *= 1.0 / FORGET

    return step


def numba_fused(n: int) -> dict[str, Run]:
    import numba

    @numba.njit(fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator]
    def update(p: Any, w: Any, x: Any, px: Any, y: Any, forget: Any) -> None:
        alpha, said = forget, np.float32(0)
        for i in range(x.shape[0]):
            total = np.float32(0)
            for j in range(x.shape[0]):
                total += p[i, j] * x[j]
            px[i] = total
            alpha += x[i] * total
            said += w[i] * x[i]
        error, inverse = (y - said) / alpha, np.float32(1) / forget
        for i in range(x.shape[0]):
            k = px[i] / alpha
            w[i] += px[i] * error
            for j in range(x.shape[0]):
                p[i, j] = (p[i, j] - k * px[j]) * inverse

    @numba.njit  # type: ignore[untyped-decorator]
    def loop(count: int, p: Any, w: Any, x: Any, px: Any, y: Any, forget: Any) -> None:
        for _ in range(count):
            update(p, w, x, px, y, forget)

    rng = np.random.default_rng(0)
    arrays = (
        np.eye(n, dtype=np.float32),
        np.zeros(n, np.float32),
        rng.normal(size=n).astype(np.float32),
        np.empty(n, np.float32),
    )
    scalars = np.float32(1), np.float32(FORGET)
    return {
        "numba, from Python": repeated(lambda: update(*arrays, *scalars)),
        "numba, in its loop": lambda count: loop(count, *arrays, *scalars),
    }


def river_models(n: int) -> dict[str, Run]:
    from river import linear_model

    x = {f"x{i}": float(v) for i, v in enumerate(np.random.default_rng(0).normal(size=n))}
    linear, bayes = linear_model.LinearRegression(), linear_model.BayesianLinearRegression()
    found = {"river LinearRegression": repeated(lambda: linear.learn_one(x, 1.0))}
    return found | {"river BayesianLinearRegression": repeated(lambda: bayes.learn_one(x, 1.0))} if n <= 64 else found


def has(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def contenders(n: int) -> dict[str, Run]:
    found = ours(n, 1) | {f"{name}, 12 outputs": run for name, run in ours(n, 12).items()}
    found["numpy"] = repeated(numpy_covariance(n))
    if has("scipy"):
        found["scipy BLAS"] = repeated(scipy_blas(n))
    if has("numba"):
        found |= numba_fused(n)
    if has("river"):
        found |= river_models(n)
    return found


def streams() -> dict[str, Run]:
    """A step of the 86 features of 14 turbofan sensors; samples of the detector."""
    specs = [
        Ewma(0.2),
        Ewma(0.1),
        Ewma(0.05),
        Ewma(0.1) - Ewma(0.02),
        Ewma(0.05) - First(10),
        Mean(),
        Count(),
        LogCount(),
    ]
    rng = np.random.default_rng(0)
    x, out, bank = rng.normal(size=(1, 14)).astype(np.float32), np.empty((1, 86), np.float32), Bank(14, specs)
    one, many = Records(), Records(streams=10_000)
    wide, now = rng.normal(size=10_000), [1e9]

    def series(count: int) -> None:
        one.score_series(rng.normal(size=count), 1e9 + 300.0 * np.arange(count))

    def step() -> None:
        now[0] += 300
        many.score_many(wide, now[0])

    return {
        "Bank, 86 features": repeated(bank.bind(x, out)),
        "Records, a series": series,
        "Records, 10,000 streams": repeated(step),
    }


def interleaved(runs: dict[str, Run], rounds: int, seconds: float) -> dict[str, float]:
    """Microseconds of one update: the smallest of the rounds' means."""
    counts, best = {}, dict.fromkeys(runs, float("inf"))
    for name, run in runs.items():
        run(20)
        begin = time.perf_counter()
        run(20)
        counts[name] = max(20, int(seconds / max((time.perf_counter() - begin) / 20, 1e-8)))
    for _ in range(rounds):
        for name, run in runs.items():
            begin = time.perf_counter()
            run(counts[name])
            best[name] = min(best[name], (time.perf_counter() - begin) / counts[name] * 1e6)
    return best


def soak(updates: int) -> None:
    """The stream of the tests (correlated, standing still at times, outliers, a constant and a zero feature), again and again:
    the mean squared error of the median window over the noise, in tenths of all updates."""
    from tests.support.ud_reference import correlated_stream

    noise, steps = 0.01, 1_000_000
    phi, y = correlated_stream(steps, 16, noise, seed=0)
    head, passes, ratios = RLSHead(16, 1, forget=0.999), max(updates // steps, 10), []
    for i in range(passes):
        errors = head.learn_many(phi, y).astype(float)[:, 0]
        ratios.append(np.median((errors**2).reshape(-1, 1000).mean(axis=1)) / noise)
        if (i + 1) % (passes // 10) == 0:
            print(f"{(i + 1) * steps:>12,} updates: {np.mean(ratios[-(passes // 10) :]):.4f} x the noise")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=0.001, help="of one round of one contender")
    parser.add_argument("--json", help="writes the figures there")
    parser.add_argument("--soak", type=int, help="so many updates of one head, instead")
    args = parser.parse_args()
    if args.soak:
        soak(args.soak)
        return
    found: dict[str, dict[str, float]] = {}
    for n in SIZES:
        for name, us in interleaved(contenders(n), args.rounds, args.seconds).items():
            found.setdefault(name, {})[str(n)] = us
    print(f"One update in us, {_native.isa()}, the smallest mean of {args.rounds} rounds\n")
    print("features".ljust(34) + "".join(f"{n:>9}" for n in SIZES))
    for name, row in found.items():
        print(name.ljust(34) + "".join(f"{row[str(n)]:9.2f}" if str(n) in row else " " * 9 for n in SIZES))
    called = {name: row for name, row in found.items() if "rtaccel" not in name and "loop" not in name}
    others = {n: min(row[n] for row in called.values() if n in row) for n in map(str, SIZES)}
    ahead = [others[n] / found["rtaccel, bound"][n] for n in map(str, SIZES)]
    print("the fastest other call over bound".ljust(34) + "".join(f"{a:8.1f}x" for a in ahead) + "\n")
    rest = interleaved(streams(), args.rounds, args.seconds)
    for name, us in rest.items():
        ns = us * 1000 / (10_000 if "10,000" in name else 1)
        print(f"{name:34}{ns:9.1f} ns" + (" a sample" if "Records" in name else " a step"))
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"isa": _native.isa(), "us": found, "streams_us": rest}, file, indent=1)


if __name__ == "__main__":
    main()
