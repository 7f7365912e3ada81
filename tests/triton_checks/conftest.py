"""What the checks share, and the two lists of those that are for the interpreter alone, or for a card alone.

For processes side by side: --part 2/4 runs every fourth check from the second on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from rtaccel.core import settings

INTERPRETER_ALONE = {
    "check_persistent.py::test_what_is_not_taken": "asks why the interpreter does not take a chain that is cut",
    "check_persistent_streams.py::test_numbers_go_on_for_ever": "puts a number into the kernel's source",
    "check_sparse_bytes.py::test_each_byte_of_the_weights_is_read_once": "counts the loads that the interpreter makes",
}
CARD_ALONE = {
    "check_formats.py::test_the_assembly_does_what_its_twin_does": "the interpreter has no inline assembly",
    "check_sparse_bytes.py::test_the_assembly_picks_as_its_twin": "the interpreter has no inline assembly",
}
"""Checks by file and name, with the reason. They are not collected on the other side, so that none has to be skipped there."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", default="1/1", help="N/OF: every OF-th check of this folder, from the N-th on")


def pytest_configure(config: pytest.Config) -> None:
    if settings.triton_interpret():
        from tests.triton_checks.support.quick_interpreter import quicken

        quicken()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = CARD_ALONE if settings.triton_interpret() else INTERPRETER_ALONE
    gone = [item for item in items if f"{item.path.name}::{getattr(item, 'originalname', item.name)}" in left_out]
    if gone:
        config.hook.pytest_deselected(items=gone)
        items[:] = [item for item in items if item not in gone]
    part, parts = map(int, config.getoption("--part").split("/"))
    items[:] = items[part - 1 :: parts]


@pytest.fixture
def side() -> Iterator[Callable[..., object]]:
    """Makes sides of a mailbox. A kernel whose test failed is asked to end: nothing of it may be left on a card."""
    from tests.triton_checks.support.sides import Side

    made: list[Side] = []

    def make(inputs: int, outputs: int, commands: bool = False) -> Side:
        made.append(Side(inputs, outputs, commands))
        return made[-1]

    yield make
    for one in made:
        one.control[0] = 1
