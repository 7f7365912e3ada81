"""The words of the documentation: the field's terms, American spelling, and sentences of at most 30 words."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import rtaccel as rt

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.glob("**/*.md")])
LATER = {DOCS / "reference" / "gpu-kernels.md"}
"""Pages that still have to be rewritten in these words. A page is taken from here when it was; none is added."""

OLD: dict[str, str] = {
    r"\bmoments?\b(?<!second moments)": "time step",
    r"\bmoment by moment\b": "one time step at a time",
    r"\bmanners of\b": "conventions of",
    r"\bnot here\b": "unavailable",
    r"\bstays? torch's\b|\bleft to torch\b": "falls back to PyTorch",
    r"\bas (?:it|they) lies?\b": "directly, without a copy",
    r"\blayers with zeros\b": "sparse layers",
    r"\bwhat a call costs\b": "overhead of one call",
    r"\bthe gate\b(?! is|\.)": "when a layer is swapped",
    r"\bopen (?:batch|first dimension|dimension)\b|\bdimension open\b": "dynamic batch",
    r"\bkernels? that stays?\b|\bresident kernels?\b": "persistent kernel",
    r"\b(?:are|is) worth\b": "effective sample size",
    r"\bwhose fault\b": "attributing deadline misses",
    r"\breckoned\b": "computed",
    r"\bpretended\b": "fake",
    r"\b(?:quant|optim|standard|recogn|initial|special|parametr|synchron)is(?!m|t)": "American spelling",
    r"\b(?:neighbour|behaviour|colour|modell(?:ed|ing)\b)": "American spelling",
}
"""Pattern -> what to write instead. Code is not read: names there change with the code."""

MAX_WORDS = 30
GENERATED = re.compile(r"<!-- (\w+): written by .*?<!-- \1: end -->", re.DOTALL)
"""Tables that a command writes into a page, with its notes: their sentences are not counted."""


def rel(page: Path) -> str:
    return str(page.relative_to(ROOT))


def without_code(text: str) -> str:
    """Code blocks, indented commands, inline code, link targets and comments become nothing; lines keep their number."""

    def blank(match: re.Match[str]) -> str:
        return "\n" * match[0].count("\n")

    text = re.sub(r"^ *```.*?^ *```$", blank, text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<!--.*?-->", blank, text, flags=re.DOTALL)
    text = re.sub(r"(?<=\n\n)(?: {4}(?![-*0-9]).*\n)+", blank, text)
    text = re.sub(r"`[^`\n]+`", "CODE", text)
    return re.sub(r"\]\([^)\s]+\)", "]", text)


def old_words(text: str) -> list[tuple[int, str, str]]:
    """(line, what stands there, what to write) of every old word."""
    plain = without_code(text)
    found = []
    for pattern, new in OLD.items():
        for match in re.finditer(pattern, plain, re.IGNORECASE):
            found.append((plain.count("\n", 0, match.start()) + 1, match[0], new))
    return sorted(found)


def sentences(text: str) -> list[str]:
    """Of the prose: paragraphs and items of lists, without headings, tables and what a command wrote."""
    found = []
    text = GENERATED.sub("", text)
    lines = [line for line in without_code(text).splitlines() if not line.lstrip().startswith(("|", "#", "!["))]
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", "\n".join(lines)):
        words = " ".join(paragraph.split())
        found += re.split(r"(?<=[.:?!])(?:\*\*)?\s+(?=[A-Z`\[(*\"\d]|CODE)", words)
    return [sentence for sentence in found if sentence]


def length(sentence: str) -> int:
    """Words and figures of a sentence, those in parentheses too; signs alone are not counted."""
    return len(re.findall(r"[^\s]*\w[^\s]*", sentence))


@pytest.mark.parametrize("page", [p for p in PAGES if p not in LATER], ids=rel)
def test_old_words_are_gone(page: Path) -> None:
    said = [f"line {line}: {old!r}, write {new!r}" for line, old, new in old_words(page.read_text())]
    assert not said


@pytest.mark.parametrize("page", [p for p in PAGES if p not in LATER], ids=rel)
def test_sentences_are_short(page: Path) -> None:
    long = [f"{length(s)} words: {s}" for s in sentences(page.read_text()) if length(s) > MAX_WORDS]
    assert not long


def docstrings() -> list[tuple[str, str]]:
    """(name, text) of everything in the public API; `tests/house/test_docstrings.py` says what else they must tell."""
    found = []
    for home in (rt, rt.nn, rt.online):
        for name in home.__all__:
            thing = getattr(home, name)
            found.append((name, inspect.getdoc(thing) or ""))
            if inspect.isclass(thing):
                own = {
                    m: f
                    for base in thing.__mro__
                    if base.__module__.startswith("rtaccel")
                    for m, f in vars(base).items()
                }
                found += [(f"{name}.{m}", inspect.getdoc(f) or "") for m, f in own.items() if not m.startswith("_")]
    return found


def test_public_docstrings_use_the_words() -> None:
    said = [f"{name}: {old!r}, write {new!r}" for name, text in docstrings() for _, old, new in old_words(text)]
    assert not said


def test_the_check_finds_what_it_should() -> None:
    assert [old for _, old, _ in old_words("One moment at a time.\n\nIt is quantised.")] == ["moment", "quantis"]
    assert not old_words("Run `one moment` and\n\n```\nquantise\n```\n\nthe inverse second moments")
    long = "It " + "very " * MAX_WORDS + "long is."
    assert [length(s) > MAX_WORDS for s in sentences(f"Short one. {long}\n\n| {long} |\n")] == [False, True]


def test_no_page_waits_for_ever() -> None:
    """A page in LATER that keeps the rules has to leave the list."""

    def finished(text: str) -> bool:
        return not old_words(text) and all(length(s) <= MAX_WORDS for s in sentences(text))

    assert not [rel(p) for p in LATER if p.exists() and finished(p.read_text())]
