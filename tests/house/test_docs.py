"""What the documentation says runs: its examples and commands, page by page, and the files and names that it points to."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import rtaccel as rt
from rtaccel.core import errors
from tests.support.processes.run import PYTHON, programs

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SKIP = "<!-- not run: "
"""A comment in the line above a block that cannot run everywhere; the reason follows: `<!-- not run: needs a GPU -->`."""
NEEDS = re.compile(r"<!-- needs (\w+) -->")
"""The same for a block that runs where a module is installed."""
FILE = re.compile(r"<!-- file: ([\w.]+) -->")
"""The same for a block that is a file of its own: it is written for the commands that come after it."""
SLOW = ("cascade", "deploy", "first-budget", "fit-a-budget", "measure")
"""Pages that train, compile the core or measure for seconds."""


@dataclass(frozen=True)
class Block:
    """A fenced block that is to run. line: of the page. file: its name, where it is one."""

    language: str
    line: int
    code: str
    file: str | None = None


def blocks(text: str) -> list[Block]:
    """Every fenced Python and bash block that is to run, in the order of the page."""
    found = []
    for match in BLOCK.finditer(text):
        above = text[: match.start()].rstrip("\n").rpartition("\n")[2]
        needed, file = NEEDS.fullmatch(above), FILE.fullmatch(above)
        missing = needed is not None and importlib.util.find_spec(needed[1]) is None
        if not above.startswith(SKIP) and not missing:
            line = text.count("\n", 0, match.start(2))
            found.append(Block(match[1], line, match[2], file[1] if file else None))
    return found


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(text: str) -> str:
    """Without the fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    titles = re.findall(r"^#+ +(.+)$", prose(page.read_text()), re.MULTILINE)
    return {re.sub(r"-+", "-", re.sub(r"[^\w\- ]", "", t.lower()).strip().replace(" ", "-")) for t in titles}


def run_command(page: Path, block: Block, folder: Path) -> None:
    """As a user's shell would, with this environment's programs first and a failing line as the end."""
    own = programs(folder.parent / "programs")
    paths = [str(own), str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    libraries = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")},
        "PATH": os.pathsep.join(paths),
        "PYTHONPATH": os.pathsep.join(filter(None, libraries)),
    }
    done = subprocess.run(
        ["bash", "-e", "-c", block.code], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{ids(page)}:{block.line}\n{block.code}\n{done.stdout}\n{done.stderr}"


def with_examples() -> Iterator[Any]:
    for page in PAGES:
        if blocks(page.read_text()):
            yield pytest.param(page, marks=[pytest.mark.turns(3)] if page.stem in SLOW else [])


@pytest.mark.parametrize("page", with_examples(), ids=ids)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python blocks of a page share one namespace, in their order; a traceback names the line of the page."""
    if "sklearn" in page.read_text():
        pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "example"}
    for block in blocks(page.read_text()):
        if block.file is not None:
            (tmp_path / block.file).write_text(block.code)
            compile("\n" * block.line + block.code, str(page), "exec")
        elif block.language == "python":
            exec(compile("\n" * block.line + block.code, str(page), "exec"), namespace)
        else:
            run_command(page, block, tmp_path)


def test_blocks_are_told_apart() -> None:
    page = """
```python
a = 1
```
<!-- not run: needs a GPU -->
```python
b = 2
```
<!-- file: c.py -->
```python
c = 3
```
<!-- needs a_module_that_is_not_installed -->
```python
d = 4
```
```bash
python c.py
```
```
e
```
"""
    found = [(block.language, block.file, block.code.strip()) for block in blocks(page)]
    assert found == [("python", None, "a = 1"), ("python", "c.py", "c = 3"), ("bash", None, "python c.py")]


def test_a_command_that_fails_is_seen(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no_such_command"):
        run_command(PAGES[0], Block("bash", 1, "no_such_command\necho fine"), tmp_path)


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


def test_every_page_is_in_the_site() -> None:
    """`mkdocs build --strict` says so too; this test needs no mkdocs."""
    listed = set(re.findall(r"[\w/.-]+\.md", (ROOT / "mkdocs.yml").read_text()))
    assert listed == {str(page.relative_to(ROOT / "docs")) for page in ROOT.glob("docs/**/*.md")}


def test_the_api_reference_has_every_public_name() -> None:
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "reference" / "api").glob("*.md"))
    shown = {path.rpartition(".")[2] for path in re.findall(r"^::: ([\w.]+)", pages, re.MULTILINE)}
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type)}  # shown by their module
    rooms = {"nn", "online", "realtime"}
    assert {*rt.__all__, *rt.nn.__all__, *rt.online.__all__} - rooms <= shown | kinds


def strings() -> str:
    """Every string of the sources: what messages are made of."""
    found = []
    for file in [*ROOT.glob("rtaccel/**/*.py"), *ROOT.glob("kernels/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_troubleshooting_quotes_real_messages() -> None:
    page = (ROOT / "docs" / "how-to" / "troubleshoot.md").read_text()
    said = strings()
    rows = re.findall(r"^\| (`.*?) \|.*\|$", page, re.MULTILINE)
    quoted = [part for row in rows for part in re.findall(r"`([^`]+)`", row)]
    assert len(quoted) > 50
    assert not [part for part in quoted if part not in said]
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and name != "RtaccelError":
            assert f"\n## {name}\n" in page, f"no section for {name}"


def test_support_matrix_is_up_to_date() -> None:
    done = subprocess.run(
        [*PYTHON, str(ROOT / "docs" / "write_support_matrix.py"), "--check"],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "0"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
