"""What the documentation says runs: its Python examples, page by page, and the files and names that it points to."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

import rtaccel as rt

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SKIP = "<!-- not run: "
"""A comment in the line above a block that cannot run everywhere; the reason follows: `<!-- not run: needs a GPU -->`."""
NEEDS = re.compile(r"<!-- needs (\w+) -->")
"""The same for a block that runs where a module is installed."""


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(text: str) -> list[tuple[int, str]]:
    """(line, code) of every fenced Python block that is to run."""
    found = []
    for match in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        above = text[: match.start()].rstrip("\n").rpartition("\n")[2]
        needed = NEEDS.fullmatch(above)
        missing = needed is not None and importlib.util.find_spec(needed[1]) is None
        if not above.startswith(SKIP) and not missing:
            found.append((text.count("\n", 0, match.start(1)), match[1]))
    return found


def prose(text: str) -> str:
    """Without the fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    titles = re.findall(r"^#+ +(.+)$", prose(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p.read_text())], ids=ids)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page share one namespace, in their order; a traceback names the line of the page."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "example"}
    for line, code in blocks(page.read_text()):
        exec(compile("\n" * line + code, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text())):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_files_and_names_exist(page: Path) -> None:
    """Paths below the folders of the project, and the public names, wherever a page writes them."""
    text = page.read_text()
    paths = re.findall(r"(?<![\w/.-])(?:bench|cmake|docs|kernels|rtaccel|tests)/[\w./-]+\.[a-z]+\b(?![*<{])", text)
    missing = [p for p in paths if not (ROOT / p).exists() and not p.startswith("rtaccel/kernels")]
    for room, name in re.findall(r"\brt\.((?:nn\.)?)([A-Za-z_]\w*)", text):
        if not hasattr(rt.nn if room else rt, name):
            missing.append(f"rt.{room}{name}")
    assert not missing
