"""Commands that tests fork from a process with torch are as those of an interpreter: arguments, output, status, environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import given
from tests.support.processes.run import CLIENT, FOLDER, PYTHON, of_a_run, programs

SAYS = """
import os, sys
print(sys.argv, sys.path[0], __name__, os.getcwd(), os.environ.get("A_NAME"), sys.stdin.read())
print(sys.flags.optimize, file=sys.stderr)
"""


def outcome(python: list[str], *words: str, folder: Path, **environment: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [*python, *words], input="given", capture_output=True, text=True, cwd=folder, env={**os.environ, **environment}
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "script.py").write_text(SAYS)
    (tmp_path / "module.py").write_text(SAYS)
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [("-c", SAYS, "a", "-b"), ("script.py", "a b"), ("-m", "module", "c"), ("-W", "error", "-c", SAYS), ("-m", "none")],
)
def test_a_command_sees_what_it_is_given(words: tuple[str, ...], folder: Path) -> None:
    got = outcome(PYTHON, *words, folder=folder, A_NAME="a value", PYTHONPATH=str(folder))
    assert got == outcome([sys.executable], *words, folder=folder, A_NAME="a value", PYTHONPATH=str(folder))


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.exit(3)",
        "import sys; sys.exit('said')",
        "import sys; sys.exit(-1)",
        "import sys; sys.exit()",
        "1 / 0",
        "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "import atexit; atexit.register(print, 'at the end')",
        "import threading, time; threading.Thread(target=lambda: (time.sleep(0.05), print('later'))).start()",
        "import ctypes; ctypes.CDLL(None).printf(b'not flushed')",
        "import warnings; warnings.warn('shown once')",
    ],
)
def test_a_command_ends_as_it_does(code: str, folder: Path) -> None:
    assert outcome(PYTHON, "-c", code, folder=folder) == outcome([sys.executable], "-c", code, folder=folder)


def test_it_is_forked_where_that_fits(folder: Path) -> None:
    assert FOLDER in os.environ
    code = "import sys; print('torch' in sys.modules, 'rtaccel' in sys.modules)"
    assert outcome(PYTHON, "-c", code, folder=folder)[:2] == (0, "True False\n")
    for option, environment in (("-S", {}), ("-B", {}), ("-Wignore", {}), ("", {"OMP_NUM_THREADS": "7"})):
        words = [option, "-c", code] if option else ["-c", code]
        assert outcome(PYTHON, *words, folder=folder, **environment)[:2] == (0, "False False\n")
    found = outcome(["sh", "-c", f'{programs(folder / "bin")}/python "$@"', "sh"], "-c", code, folder=folder)
    assert found[:2] == (0, "True False\n")


def test_each_draws_numbers_of_its_own(folder: Path) -> None:
    code = "import random, numpy; print(random.random(), numpy.random.rand())"
    first, second = (outcome(PYTHON, "-c", code, folder=folder)[1].split() for _ in range(2))
    assert not {*first} & {*second}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_a_client_is_the_end_of_its_command(how: int) -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with subprocess.Popen([*PYTHON, "-c", code], stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        pid = int(client.stdout.readline())
        if pid == client.pid:  # which would be waited for until its end
            client.kill()
        assert pid != client.pid
        client.send_signal(how)
        assert client.wait(60) == -how
        assert client.stdout.read() == ""  # which ends when the command does


def test_without_a_run_of_tests_the_interpreter_takes_it(folder: Path) -> None:
    command = ["env", "-u", FOLDER, sys.executable, "-I", "-S", str(CLIENT)]
    assert outcome(command, "-c", "import sys; print('torch' in sys.modules)", folder=folder)[1] == "False\n"


def test_words_of_a_command_line() -> None:
    assert given.parsed(["-W", "ignore", "-c", "1", "-c"]) == (["ignore"], "-c", "1", ["-c"])
    assert given.parsed(["a.py", "-m", "b"]) == ([], "script", "a.py", ["-m", "b"])
    assert given.parsed(["-m", "b"]) == ([], "-m", "b", [])
    for words in ([], ["-c"], ["-I", "-c", "1"], ["-W"], ["-"]):
        assert given.parsed(words) is None


def test_the_environment_of_the_first_command_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set while the server starts does not become what it forks with."""
    code = "import os; print(os.environ.get('OMP_NUM_THREADS'), os.getppid())"
    monkeypatch.setenv(FOLDER, "another run's")
    with of_a_run():
        changed = {**os.environ, "OMP_NUM_THREADS": "3"}
        first = subprocess.run(
            [*PYTHON, "-c", code], env=changed, capture_output=True, text=True, timeout=120, check=True
        )
        clients = [subprocess.Popen([*PYTHON, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
        said = [client.communicate(timeout=120)[0].split() for client in clients]
    os.environ[FOLDER] = "another run's"  # for monkeypatch, which takes it away again
    assert first.stdout.split()[0] == "3"
    assert [words[0] for words in said] == [str(os.environ.get("OMP_NUM_THREADS"))] * 2
    assert len({words[1] for words in said}) == 1  # both are forks of the server
