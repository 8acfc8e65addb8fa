"""A running fleet for benches and whole-fleet tests: `baton up --json` as a child, and its events."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FleetEvent = dict[str, Any]


class FleetError(Exception):
    """The fleet did not start, or not in time; the message holds the end of its log."""


class RunningFleet:
    """What `baton up --json` has said so far. A thread reads it; `wait_for` is for any other thread."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self.log = log
        self.events: list[FleetEvent] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, name="fleet events", daemon=True)
        self._reader.start()

    @property
    def url(self) -> str:
        """Base URL of the proxy."""
        return str(self._last("serving")["url"])

    @property
    def workers(self) -> dict[str, str]:
        """Base URL of each worker by name."""
        listening = [event for event in self.events if event["event"] == "listening"]
        return {event["name"]: event["url"] for event in listening if event["name"] != "proxy"}

    def pid(self, name: str) -> int:
        """Process id of the latest process of a child."""
        return int(self._last("started", name)["pid"])

    def count(self, event: str, name: str) -> int:
        """How often a child reported an event."""
        return sum(each["event"] == event and each.get("name") == name for each in self.events)

    def wait_for(
        self, event: str, name: str | None = None, *, times: int = 1, timeout_s: float = 60.0
    ) -> None:
        """Return once `event` came `times` times. Raises `FleetError` if the fleet ends or time runs out."""

        def seen() -> bool:
            matching = (e for e in self.events if e["event"] == event and name in (None, e.get("name")))
            return sum(1 for _ in matching) >= times

        self._wait_until(seen, f"{event} of {name or 'the fleet'}", timeout_s)

    def stop(self, timeout_s: float = 60.0) -> int:
        """Drain the fleet and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()  # its children die with it
            status = self.process.wait()
        self._reader.join()
        return status

    def log_tail(self, lines: int = 30) -> str:
        """The end of the children's logs."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _last(self, event: str, name: str | None = None) -> FleetEvent:
        matching = [e for e in self.events if e["event"] == event and name in (None, e.get("name"))]
        if not matching:
            raise FleetError(f"no {event} of {name or 'the fleet'} yet")
        return matching[-1]

    def _wait_until(self, happened: Callable[[], bool], what: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        with self._news:
            while not happened():
                left = deadline - time.monotonic()
                if left <= 0 or (self.process.poll() is not None and not self._reader.is_alive()):
                    raise FleetError(f"waited for {what}; {self.events[-1:]}\n{self.log_tail()}")
                self._news.wait(min(left, 1.0))

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.events.append(json.loads(line))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()


@contextmanager
def running_fleet(log: Path, *flags: str, start_timeout_s: float = 90.0) -> Iterator[RunningFleet]:
    """Run `baton up` with `flags` on a free port; drained at the end. `log` takes the children's logs."""
    command = [sys.executable, "-P", "-m", "baton.cli", "up", "--json", "--port", "0", *flags]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True)
    fleet = RunningFleet(process, log)
    try:
        fleet.wait_for("serving", timeout_s=start_timeout_s)
        yield fleet
    finally:
        fleet.stop()
        assert process.stdout is not None
        process.stdout.close()
