"""Stands for the interpreter in a command: `python -I -S client.py -c CODE`, `-m MODULE` or a script, with their arguments.

The command runs in a process of its own, forked from server.py, which has imported torch. Where that does not fit, the
interpreter itself takes the command. Nothing but built-in modules is imported, so that this costs some milliseconds.
"""

from __future__ import annotations

import marshal
import os
import signal
import sys
from contextlib import suppress

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import _socket  # without the enumerations of `socket`

import given

FOLDER = "RTACCEL_TEST_PROCESSES"
"""Where the socket of the run is; without it nothing is forked. tests/support/processes/run.py sets it."""


def connected(folder: str) -> _socket.socket | None:
    """To the server of the run, which the first of all commands starts."""
    import fcntl

    path = os.path.join(folder, "socket")
    with open(os.path.join(folder, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(path):
            start(folder)
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        sock.connect(path)
    except OSError:
        return None
    return sock


def start(folder: str) -> None:
    """Returns when it listens, or cannot. Its output is kept beside the socket."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        log = os.open(os.path.join(folder, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.set_inheritable(write, True)
        with open(os.path.join(folder, "environment"), "rb") as file:
            of_the_run = marshal.loads(file.read())
        own = {name: value for name, value in of_the_run.items() if name != "PYTHONPATH"}
        server = os.path.join(os.path.dirname(os.path.abspath(__file__)), "server.py")
        os.closerange(3, write)
        os.closerange(write + 1, 256)
        os.execve(sys.executable, [sys.executable, server, folder, str(write)], own)
    os.close(write)
    os.read(read, 1)
    os.close(read)


def ask(sock: _socket.socket, words: list[str]) -> int | None:
    """The status as waitpid has it; None where the server would rather not."""
    request = {"words": words, "environment": dict(os.environ), "folder": os.getcwd()}
    data = marshal.dumps(request)
    descriptors = b"".join(fd.to_bytes(4, sys.byteorder) for fd in (0, 1, 2))
    sock.sendmsg([len(data).to_bytes(8, "little")], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptors)])
    sock.sendall(data)
    answer = b""
    while len(answer) < 8:
        part = sock.recv(8 - len(answer))
        if not part:
            return None if not answer else 1 << 8
        answer += part
        if answer == b"refused!":
            return None
        if len(answer) == 8 and answer[:4] == b"pid ":
            pass_signals(int.from_bytes(answer[4:], "little"))
            answer = b""
    return int.from_bytes(answer, "little")


def pass_signals(pid: int) -> None:
    """What ends or interrupts this process is meant for the command. Its end by SIGKILL is seen by the server."""

    def forward(number: int, _: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, forward)


def main(words: list[str]) -> None:
    folder = os.environ.get(FOLDER)
    status = None
    if folder and given.parsed(words) is not None and hasattr(os, "fork"):
        sock = connected(folder)
        status = ask(sock, words) if sock is not None else None
    if status is None:
        os.execv(sys.executable, [sys.executable, *words])
    if os.WIFSIGNALED(status):
        signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.WEXITSTATUS(status))


main(sys.argv[1:])
