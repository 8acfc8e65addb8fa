"""Real engine processes, spoken to as their frontend does."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import zmq

from baton.engine.config import WorkerConfig
from baton.engine.messages import EngineMessage, EngineReady, FrontendMessage, Shutdown, StepOutputs

DEADLINE_S = 60.0

T = TypeVar("T")

_decoder: msgspec.msgpack.Decoder[EngineMessage] = msgspec.msgpack.Decoder(EngineMessage)


class EngineUnderTest:
    """One engine process and the frontend's end of its socket."""

    def __init__(self, config: WorkerConfig, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "config.json").write_bytes(msgspec.json.encode(config))
        self.command = [sys.executable, "-P", "-m", "baton.engine.process"]
        self.command += ["--config", str(folder / "config.json"), "--ipc", str(folder / "engine.ipc")]
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.bind(f"ipc://{folder / 'engine.ipc'}")
        self._process: subprocess.Popen[bytes] | None = None
        self.received: list[EngineMessage] = []

    def start(self) -> None:
        self._process = subprocess.Popen(self.command)

    def send(self, message: FrontendMessage) -> None:
        self._socket.send(msgspec.msgpack.encode(message))

    def receive(self) -> EngineMessage:
        """Return the next message."""
        assert self._socket.poll(DEADLINE_S * 1000), f"silence; so far {self.received[-5:]}"
        message = _decoder.decode(self._socket.recv())
        self.received.append(message)
        return message

    def wait_for(self, kind: type[T], matches: Callable[[T], bool] = lambda message: True) -> T:
        """Return the first message of this kind that matches, received already or still to come."""
        for known in self.received:
            if isinstance(known, kind) and matches(known):
                return known
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            message = self.receive()
            if isinstance(message, kind) and matches(message):
                return message
        raise AssertionError(f"no {kind.__name__} within {DEADLINE_S} s")

    def has_said(self, kind: type[EngineMessage]) -> bool:
        """Tell whether a message of this kind has come, without waiting for one."""
        while self._socket.poll(0):
            self.receive()
        return any(isinstance(message, kind) for message in self.received)

    def ready(self) -> EngineReady:
        return self.wait_for(EngineReady)

    def tokens_of(self, request_id: str) -> list[int]:
        return [
            token
            for message in self.received
            if isinstance(message, StepOutputs)
            for output in message.outputs
            if output.request_id == request_id
            for token in output.token_ids
        ]

    def exit_status(self) -> int:
        assert self._process is not None
        return self._process.wait(DEADLINE_S)

    def shut_down(self) -> int:
        self.send(Shutdown(grace_s=5.0))
        return self.exit_status()

    def kill(self) -> None:
        """End the process as `kill -9` does."""
        assert self._process is not None
        self._process.kill()

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._socket.close(linger=0)
        self._context.term()
