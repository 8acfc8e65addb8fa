"""The test's side of `child_process.py`: starts children, gives them orders, kills them."""

import os
import signal
import subprocess
import sys
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

from .builders import WAIT_S

SCRIPT = Path(__file__).parent / "child_process.py"


class RefusedError(Exception):
    """A child raised; the message starts with the error's name."""


class Nursery:
    """One process that has loaded a transport's library and forks children."""

    def __init__(self, folder: Path, *, module: str, transport: str, environment: dict[str, str]) -> None:
        self.folder = folder
        address = str(folder / "nursery.sock")
        command = [sys.executable, str(SCRIPT), module, transport, address]
        with Listener(address, "AF_UNIX") as listener:
            self._process = subprocess.Popen(command, env={**os.environ, **environment})
            self._orders: Connection[Any, Any] = listener.accept()

    def fork(self, address: str, *arguments: object) -> int:
        """Return a new child's process id."""
        self._orders.send(("fork", (address, *arguments)))
        pid: int = self._orders.recv()
        return pid

    def wait(self, pid: int) -> int:
        """Return a child's exit status, negative for a signal."""
        self._orders.send(("wait", pid))
        status: int = self._orders.recv()
        return status

    def close(self) -> None:
        self._orders.close()
        assert self._process.wait(WAIT_S) == 0


class ChildProcess:
    """One child."""

    def __init__(self, nursery: Nursery, *arguments: object) -> None:
        self._nursery = nursery
        self._alive = True
        address = str(nursery.folder / f"{os.urandom(4).hex()}.sock")
        with Listener(address, "AF_UNIX") as listener:
            self.pid = nursery.fork(address, *arguments)
            self._orders: Connection[Any, Any] = listener.accept()
        self.answer()

    def order(self, name: str, *arguments: object) -> None:
        """Give an order without waiting for the answer."""
        self._orders.send((name, arguments))

    def answer(self) -> Any:
        """Return the answer to an order. Raises `RefusedError`."""
        assert self._orders.poll(WAIT_S), "the child does not answer"
        error, result = self._orders.recv()
        if error is not None:
            raise RefusedError(f"{error}: {result}")
        return result

    def ask(self, name: str, *arguments: object) -> Any:
        """Give an order and return its answer."""
        self.order(name, *arguments)
        return self.answer()

    def stop(self) -> None:
        """Freeze the child and return once none of its threads runs; it goes on after `resume`."""
        os.kill(self.pid, signal.SIGSTOP)
        while not all(map(_is_stopped, Path(f"/proc/{self.pid}/task").iterdir())):
            os.sched_yield()

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        assert self._nursery.wait(self.pid) == -signal.SIGKILL
        self._alive = False

    def close(self) -> None:
        """End in good order; a child that was killed has ended already."""
        if self._alive:
            self.ask("close")
            assert self._nursery.wait(self.pid) == 0
        self._orders.close()


def _is_stopped(thread: Path) -> bool:
    """Tell whether a thread is stopped: the state follows its name, which is in brackets."""
    return (thread / "stat").read_text().rpartition(")")[2].split()[0] == "T"
