"""`rtaccel bench --against`: two versions of the code in one interleaved run, each built once."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import rtaccel
from rtaccel.cli._bench import against, build
from rtaccel.cli._bench.against import HERE, THERE, compare, judge
from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.measure.interleave import Ratio


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.9, 1.01, "PASS"), (1.06, 1.2, "FAIL"), (1.01, 1.2, "UNDECIDED"), (0.99, 1.05, "PASS")],
)
def test_judging_a_ratio(low: float, high: float, verdict: str) -> None:
    assert judge(Ratio((low + high) / 2, low, high, 0.99), 0.05) == verdict


@pytest.fixture(scope="module")
def other_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this version, laid out as an installed one, whose softmax in plain torch takes its time."""
    root = tmp_path_factory.mktemp("there")
    source = Path(rtaccel.__file__).parent
    import rtaccel._native as native
    from rtaccel import kernels

    ignore = shutil.ignore_patterns("__pycache__", "*.cc", "*.h")
    shutil.copytree(source, root / "rtaccel", ignore=ignore)
    shutil.copytree(next(iter(kernels.__path__)), root / "rtaccel" / "kernels", ignore=ignore, dirs_exist_ok=True)
    for library in Path(native.__file__).parent.glob("*.so*"):
        shutil.copy(library, root / "rtaccel")
    slow = root / "rtaccel" / "kernels" / "softmax" / "portable.py"
    text = slow.read_text()
    assert "torch.softmax(" in text
    slow.write_text("import time\n\n" + text.replace("torch.softmax(", "(time.sleep(0.001) or torch.softmax)("))
    head, rest = slow.read_text().split("from __future__ import annotations\n")
    slow.write_text("from __future__ import annotations\n" + head + rest)
    return root


@contextlib.contextmanager
def silent(titles: Sequence[str]) -> Iterator[Callable[[str], None]]:
    yield lambda note: None


@pytest.mark.usefixtures("forked_python")
def test_a_slower_version_is_found_and_the_same_code_is_not(other_version: Path, shapes: str, tmp_path: Path) -> None:
    """Sleeping 1 ms is a hundred times slower: that no noise hides. The C++ kernel is the same file on both sides, so
    the ratio is near 1; how near, the machine decides, and nothing is asserted on it but that it was measured."""
    options = {"scheme": "float32", "backend": None, "device": "cpu", "threads": 1}
    request = {"items": ["softmax/*/portable_torch", "softmax/*/cpu_portable"], "shapes": shapes, "options": options}
    roots = {HERE: str(other_version), THERE: "-"}
    with (tmp_path / "log").open("w+") as log:
        found = {row.name: row for row in compare(roots, request, 4, 1, 0.05, log, silent)}
    slow, same = found["softmax/tiny/portable_torch"], found["softmax/tiny/cpu_portable"]
    assert slow.verdict == "FAIL"
    assert slow.ratio is not None and slow.ratio.low > 2
    assert same.left_out is None
    assert same.here_us is not None and same.here_us > 0
    assert json.loads(json.dumps(slow.to_dict()))["ratio"]["low"] == slow.ratio.low


@pytest.mark.usefixtures("forked_python")
def test_what_one_side_cannot_make_is_left_out(other_version: Path, shapes: str, tmp_path: Path) -> None:
    nets = tmp_path / "nets.py"
    nets.write_text("def net():\n    raise ValueError('not today')\n")
    options = {"scheme": "float32", "backend": None, "device": "cpu", "threads": 1}
    request = {"items": [f"{nets}:net"], "shapes": None, "options": options}
    with (tmp_path / "log").open("w+") as log:
        (row,) = compare({HERE: "-", THERE: "-"}, request, 1, 1, 0.05, log, silent)
        assert row.verdict is None
        assert "not today" in (row.left_out or "")
        with pytest.raises(UnsupportedProblem, match="the version there"):
            compare({HERE: "-", THERE: str(tmp_path)}, request, 1, 1, 0.05, log, silent)


BACKEND = """
import zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "rtaccel-9.9-py3-none-any.whl"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        wheel.writestr("rtaccel/__init__.py", open("version.py").read())
        wheel.writestr("rtaccel-9.9.dist-info/METADATA", "Metadata-Version: 2.1\\nName: rtaccel\\nVersion: 9.9\\n")
        wheel.writestr("rtaccel-9.9.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("rtaccel-9.9.dist-info/RECORD", "")
    return name
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with two commits that builds in a time step."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "TOOLS", ())  # nothing has to be installed for this one
    root = tmp_path / "clone"
    root.mkdir()
    (root / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "rtaccel"\nversion = "9.9"\n'
    )
    (root / "backend.py").write_text(BACKEND)
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    for version in ("old", "new"):
        (root / "version.py").write_text(f"__version__ = {version!r}\n")
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-qm", version], check=True)
    return root


def test_a_ref_is_built_once_and_leaves_the_clone_as_it_was(repository: Path) -> None:
    said: list[str] = []
    folder = build.installed("HEAD~1", repository, said.append)
    assert "old" in (folder / "rtaccel" / "__init__.py").read_text()
    assert len(said) == 1
    assert build.installed("HEAD~1", repository, said.append) == folder
    assert len(said) == 1
    status = subprocess.run(["git", "-C", repository, "worktree", "list"], capture_output=True, text=True, check=True)
    assert len(status.stdout.splitlines()) == 1
    assert "new" in (repository / "version.py").read_text()


@pytest.mark.parametrize("ref", ["no-such-branch", "--help", "HEAD~7"])
def test_a_ref_that_is_none(ref: str, repository: Path) -> None:
    with pytest.raises(FormatError, match="--against"):
        build.installed(ref, repository, print)


def test_a_ref_that_does_not_build_is_told_and_not_kept(repository: Path) -> None:
    (repository / "backend.py").write_text("raise RuntimeError('missing compiler')\n")
    git = ["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "commit", "-qam", "broken"], check=True)
    with pytest.raises(UnsupportedProblem, match="missing compiler"):
        build.installed("HEAD", repository, lambda text: None)
    assert not list(build.cache_folder().iterdir())


def test_outside_of_a_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FormatError, match="git repository"):
        build.repository_here()
    with pytest.raises(FormatError, match="a clone of the project"):
        build.commit_of("HEAD", tmp_path)


@pytest.mark.usefixtures("forked_python")
def test_the_worker_answers_in_json_whatever_is_printed(tmp_path: Path) -> None:
    nets = tmp_path / "loud.py"
    nets.write_text(
        "import torch\nprint('hello from the model')\n"
        "def net():\n    print('again')\n    return torch.nn.Linear(3, 3).eval(), (torch.randn(1, 3),)\n"
    )
    with (tmp_path / "log").open("w+") as log:
        worker = against.Worker("-", max(os.sched_getaffinity(0)), log)
        assert worker.hello["rtaccel"] == str(Path(rtaccel.__file__).parent)
        options = {"scheme": "w8a8", "backend": None, "device": "cpu", "threads": 1}
        assert worker.ask(items=[f"{nets}:net"], shapes=None, options=options) == {"names": [f"{nets}:net"]}
        assert worker.ask(make=f"{nets}:net")["estimate_ns"] > 0
        assert len(worker.ask(time=f"{nets}:net", calls=5)["ns"]) == 5
        assert "KeyError" in worker.ask(make="nothing")["left_out"]
        worker.close()
