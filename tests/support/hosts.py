"""Two network namespaces joined by a cable, which play two hosts."""

import contextlib
import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest

ADDRESSES = ("10.77.0.1", "10.77.0.2")


class Host:
    """A namespace, and its end of the cable."""

    def __init__(self, name: str, cable: str) -> None:
        self._name = name
        self._cable = cable

    def run_python(self, code: str, *arguments: str) -> "subprocess.Popen[str]":
        """Start `python -c code` on this host; its standard output is read through the process."""
        python = [sys.executable, "-P", "-c", code, *arguments]
        command = ["ip", "netns", "exec", self._name, *python]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def vanish(self) -> None:
        """Drop off the net: no connection is closed, and the other end's cable still has a signal."""
        ip("-n", self._name, "addr", "flush", "dev", self._cable)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextlib.contextmanager
def joined_hosts() -> Iterator[list[Host]]:
    """Two hosts at `ADDRESSES`; skips the test where they cannot be made."""
    mark = uuid.uuid4().hex[:6]
    names = [f"baton-{mark}-{end}" for end in (0, 1)]
    cables = [f"b{mark}{end}" for end in (0, 1)]
    try:
        for name in names:
            ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces cannot be made here: {error}")
    try:
        ip("link", "add", cables[0], "type", "veth", "peer", "name", cables[1])
        for name, cable, address in zip(names, cables, ADDRESSES, strict=True):
            ip("link", "set", cable, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", cable)
            ip("-n", name, "link", "set", cable, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield [Host(name, cable) for name, cable in zip(names, cables, strict=True)]
    finally:
        for name in names:
            ip("netns", "del", name)
