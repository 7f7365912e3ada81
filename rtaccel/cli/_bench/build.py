"""Another git ref of the project, built once for each commit and kept in the user's cache."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rtaccel.core.errors import FormatError, UnsupportedProblem

TOOLS = ("scikit_build_core", "nanobind")
"""What a build needs; where they are installed, nothing is fetched for it."""


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rtaccel" / "refs"


def commit_of(ref: str, repository: Path) -> str:
    """The full hash. Raises FormatError where this is no git repository of the project, or has no such ref."""
    if (
        not (repository / "pyproject.toml").is_file()
        or 'name = "rtaccel"' not in (repository / "pyproject.toml").read_text()
    ):
        raise FormatError("bench", f"--against {ref} in {repository}", "a clone of the project", "Run it in the clone.")
    if ref.startswith("-"):
        raise FormatError("bench", f"--against {ref}", "a branch, tag or commit", "Name one.")
    done = _git(repository, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    if done.returncode != 0:
        raise FormatError("bench", f"--against {ref}", "a branch, tag or commit of this clone", "See `git log`.")
    return done.stdout.strip()


def repository_here() -> Path:
    """The clone that the working directory is in."""
    done = _git(Path.cwd(), "rev-parse", "--show-toplevel")
    if done.returncode != 0:
        raise FormatError(
            "bench", f"--against in {Path.cwd()}", "a git repository", "Run it in a clone of the project."
        )
    return Path(done.stdout.strip())


def installed(ref: str, repository: Path, say: Callable[[str], None]) -> Path:
    """A folder that holds the `rtaccel` package of that ref, built for this Python. Building takes minutes, once per commit."""
    commit = commit_of(ref, repository)
    folder = cache_folder() / f"{commit[:16]}-{sysconfig.get_config_var('SOABI')}"
    if (folder / "rtaccel" / "__init__.py").is_file():
        return folder
    say(f"building {ref} ({commit[:10]}); this takes some minutes, once")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        source, target = Path(scratch) / "source", Path(scratch) / "installed"
        _run(
            ["git", "-C", str(repository), "worktree", "add", "--detach", "--quiet", str(source), commit],
            "git worktree",
        )
        try:
            known = all(importlib.util.find_spec(tool) for tool in TOOLS)
            isolation = ["--no-build-isolation"] if known else []
            pip = [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
                *isolation,
            ]
            path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # cmake and ninja
            _run([*pip, "--target", str(target), str(source)], f"building {ref}", {**os.environ, "PATH": path})
        finally:
            _git(repository, "worktree", "remove", "--force", str(source))
        shutil.rmtree(folder, ignore_errors=True)
        target.rename(folder)  # as a whole, so that a build that was broken off is never taken for one
    return folder


def _git(repository: Path, *words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["git", "-C", str(repository), *words], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise FormatError("bench", "--against", "git on the PATH", "Install git.") from error


def _run(command: Sequence[str], what: str, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise UnsupportedProblem("bench", f"{what} failed", "a ref that builds here", f"It said: {said}")
