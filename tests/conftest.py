"""Fixtures for every test."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Iterator

if "PYTEST_XDIST_WORKER" in os.environ:  # torch's threads spin for each other: beside other workers a call takes 15 ms
    for library in ("OMP", "MKL", "OPENBLAS"):  # benchmarks set all of them: their processes can be forked then
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")

import pytest
import torch

from tests import turns
from tests.support import kept
from tests.support.generators.count import pytest_sessionfinish, pytest_terminal_summary, pytest_testnodedown  # noqa: F401
from tests.support.processes.run import keep_environment, of_a_run, programs
from tests.support.wheel import wheel  # noqa: F401

LONGEST = (
    "test_every_kernel_and_its_page", "test_triton_interpreter", "TestLifetimes", "test_kernels_in_the_simulator",
    "test_every_batch", "test_random_models", "under_every_instruction_set",
)  # fmt: skip
"""Parts of the ids of what takes longer than ten seconds."""


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(20)


@pytest.fixture(scope="module")
def kept_triton_cache() -> Iterator[None]:
    """Each form is compiled once, until its source, an option or triton changes: triton's own cache is keyed by them. Nothing is
    read from, or left in, the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(kept.folder("triton")))
        yield


@pytest.fixture
def nan_filled_empty():
    """Memory from torch.empty arrives full of NaN (or a sentinel): an element left unwritten cannot pass by chance."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def forked_python(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What starts `sys.executable` gets processes that have imported torch, see tests/support/processes/run.py."""
    monkeypatch.setattr(sys, "executable", str(programs(tmp_path_factory.mktemp("programs")) / "python"))


@pytest.fixture
def logged() -> Iterator[list[logging.LogRecord]]:
    """What is logged meanwhile, also by loggers that pass nothing on."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    known = [found for found in logging.root.manager.loggerDict.values() if isinstance(found, logging.Logger)]
    loggers = [logging.root, *(logger for logger in known if not logger.propagate)]
    for logger in loggers:
        logger.addHandler(handler)
    yield records
    for logger in loggers:
        logger.removeHandler(handler)


NAMED = "RTACCEL_NAMED_TESTS"
"""Set for the processes of a run whose files were named."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "turns(days, fixture): runs on one of so many days, see tests/turns.py")
    if not hasattr(config, "workerinput") and config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        os.environ[NAMED] = "1"
    if not hasattr(config, "workerinput"):
        processes = of_a_run()
        processes.__enter__()
        config.add_cleanup(lambda: processes.__exit__(None, None, None))
    else:
        keep_environment()


def pytest_report_header() -> str:
    return f"cases that take turns: all of them, or RTACCEL_DAY={turns.DAY} (make check runs all)"


@pytest.hookimpl(tryfirst=True)  # before `-m turns` chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest first: side by side, nobody waits for it at the end."""
    turns.mark_long(items)
    if not turns.EVERY and NAMED not in os.environ and not config.option.markexpr and not config.option.keyword:
        left = {id(item) for item in turns.others(items)}
        config.hook.pytest_deselected(items=[item for item in items if id(item) in left])
        items[:] = [item for item in items if id(item) not in left]
    items.sort(key=lambda item: not any(name in item.nodeid for name in LONGEST))


def pytest_collection_finish() -> None:
    """What stays for the whole run is left out of later collections of garbage, which tests and captures of graphs ask for: with
    fifteen thousand tests one of them takes a second."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """At exit it is let go of; else the native module reports its plans as leaks."""
    gc.unfreeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """The same with what a file of tests leaves: modules that it imported, and models that it keeps."""
    if nextitem is not None and nextitem.path != item.path:
        gc.collect()
        gc.freeze()
