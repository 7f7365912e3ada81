"""A process that has imported torch, and forks for each command that client.py asks for: `python server.py FOLDER READY`.

To import torch and its exporter takes four seconds of a core, and hundreds of tests start a process. Nothing of rtaccel is
imported here: a command imports it anew, with its own environment. It ends with the run of the tests.
"""

from __future__ import annotations

import atexit
import builtins
import ctypes
import gc
import marshal
import os
import runpy
import select
import signal
import socket
import sys
import threading
import types
import warnings
from contextlib import suppress
from pathlib import Path

import given

OWN_PATH = sys.path[1:]
ENVIRONMENT = given.read_at_import(dict(os.environ))
"""Before the libraries add to it."""
IDLE_SECONDS = 1.0


def import_ahead() -> None:
    import hypothesis  # noqa: F401  (which every session of pytest imports)
    import numpy  # noqa: F401
    import pytest  # noqa: F401
    import torch
    import torch._dynamo
    import torch._export
    import torch.export._trace
    import torch.fx.experimental.symbolic_shapes
    import torch.testing

    torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),)).run_decompositions({})


class Command:
    """One that a client asked for. pid: 0 in the process that is to run it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.pid = sock, -1
        head, ancillary, *_ = sock.recvmsg(8, socket.CMSG_SPACE(12))
        self.descriptors = [
            int.from_bytes(data[i : i + 4], sys.byteorder) for _, _, data in ancillary for i in range(0, len(data), 4)
        ]
        size, data = int.from_bytes(head, "little"), b""
        while len(data) < size:
            part = sock.recv(size - len(data))
            if not part:
                raise ConnectionError("a client that ended")
            data += part
        self.request = marshal.loads(data)

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = []


def serve(folder: Path, ready: int) -> Command | None:
    """Forks for every client. Returns in each fork with its command, and with None when the run is over."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(folder / "socket"))
    listener.listen(64)
    wake, woken = socket.socketpair()
    woken.setblocking(False)
    signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    os.write(ready, b"r")
    os.close(ready)
    running: dict[int, Command] = {}
    parent = int((folder / "pid").read_text())
    while going(folder, parent):
        clients = {command.sock: command for command in running.values()}
        readable, *_ = select.select([listener, wake, *clients], [], [], IDLE_SECONDS)
        for sock in readable:
            if sock is wake:
                wake.recv(4096)
            elif sock is not listener:  # a client says no more: it has ended
                with suppress(ProcessLookupError):
                    os.kill(clients[sock].pid, signal.SIGKILL)
                clients[sock].sock.close()
                running.pop(clients[sock].pid, None)
        reap(running)
        if listener in readable:
            command = accepted(listener)
            if command is not None and command.pid == 0:
                for own in (listener, wake, woken, command.sock, *(other.sock for other in running.values())):
                    own.close()
                return command
            if command is not None:
                running[command.pid] = command
    return None


def going(folder: Path, parent: int) -> bool:
    try:
        os.kill(parent, 0)
    except OSError:
        return False
    return (folder / "socket").exists()


def reap(running: dict[int, Command]) -> None:
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if pid in running:
                sock = running.pop(pid).sock
                with suppress(OSError):
                    sock.sendall(status.to_bytes(8, "little"))
                sock.close()


def accepted(listener: socket.socket) -> Command | None:
    sock, _ = listener.accept()
    try:
        command = Command(sock)
        if given.read_at_import(command.request["environment"]) != ENVIRONMENT:
            sock.sendall(b"refused!")
            command.close()
            sock.close()
            return None
        command.pid = os.fork()
        if command.pid:
            command.close()
            sock.sendall(b"pid " + command.pid.to_bytes(4, "little"))
    except (ConnectionError, EOFError, ValueError):
        sock.close()
        return None
    return command


def become(command: Command) -> None:
    """Files, environment, folder and search path of the command: nothing of the server's is left to be seen. What is imported
    stays frozen: a collection of garbage would walk through all of it, and copy its memory."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    for target, descriptor in enumerate(command.descriptors):
        os.dup2(descriptor, target)
    command.close()
    os.environ.clear()
    os.environ.update(command.request["environment"])
    os.chdir(command.request["folder"])
    import numpy

    numpy.random.seed()  # noqa: NPY002  (else all commands draw the same)


def run(command: Command) -> None:
    """As the interpreter does with `-c`, `-m` or a script."""
    words = command.request["words"]
    found = given.parsed(words)
    assert found is not None
    filters, kind, text, arguments = found
    sys.orig_argv = [sys.executable, *words]
    sys.path[:] = given.search_path(kind, text, command.request["environment"], OWN_PATH)
    sys.warnoptions[:] = filters
    warnings._processoptions(filters)  # type: ignore[attr-defined]
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = main
    sys.argv[:] = [text if kind == "script" else kind, *arguments]
    if kind == "-m":
        runpy._run_module_as_main(text)  # type: ignore[attr-defined]
        return
    main.__dict__["__file__" if kind == "script" else "__package__"] = text if kind == "script" else None
    source = Path(text).read_bytes() if kind == "script" else text
    exec(compile(source, text if kind == "script" else "<string>", "exec"), main.__dict__)


def main() -> None:
    folder, ready = Path(sys.argv[1]), int(sys.argv[2])
    import_ahead()
    gc.collect()
    gc.freeze()
    command = serve(folder, ready)
    if command is None:
        return
    become(command)
    for name in ("given", "server"):
        sys.modules.pop(name, None)
    try:
        run(command)
    except SystemExit as asked:
        if asked.code is not None and not isinstance(asked.code, int):
            print(asked.code, file=sys.stderr)
        end(asked.code if isinstance(asked.code, int) else int(asked.code is not None))
    except Exception as error:
        trace = error.__traceback__
        for _ in range(2):  # of this file
            trace = trace.tb_next if trace else None
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        end(1)
    end(0)


def end(status: int) -> None:
    """What the interpreter does at its end, but that it takes no module apart: of all that is imported here, that takes a second
    of a core and a copy of the memory."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    ctypes.PyDLL(None).exit(status & 0xFF)


main()
