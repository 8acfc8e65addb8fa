"""What `baton up` shows: bars while models load, prefixed logs, notes. No decisions.

TerminalScreen   colours and progress bars
PlainScreen      the same as plain lines, where the output is not a terminal
JsonScreen       one JSON object a line on standard output for programs; logs on standard error
"""

import sys
from typing import Protocol, TextIO

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn

from .child_events import Loading
from .fleet_messages import Address, ShowFailure

_COLOURS = ["cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "bright_yellow"]


class Screen(Protocol):
    """Where the commands that begin with `Show` end up."""

    def started(self, name: str, pid: int) -> None:
        """A child process runs."""

    def loading(self, name: str, progress: Loading) -> None:
        """A child has loaded `done` of `total` of a stage."""

    def listening(self, name: str, address: Address) -> None:
        """A child's address is known."""

    def ready(self, name: str) -> None:
        """A child does its work."""

    def line(self, name: str, text: str) -> None:
        """A line of a child's log."""

    def note(self, text: str) -> None:
        """Something about the fleet."""

    def serving(self, pairs: str, address: Address, curl: str) -> None:
        """Every pair has shaken hands."""

    def failure(self, failure: ShowFailure) -> None:
        """A child ended before the fleet served."""

    def close(self) -> None:
        """Nothing more will be shown."""


class PlainScreen:
    """Plain lines, a fifth of a stage at a time."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._fifths: dict[tuple[str, str], int] = {}

    def started(self, name: str, pid: int) -> None:
        """Say the process id, for whoever wants to signal one child."""
        self._print(name, f"started, pid {pid}")

    def loading(self, name: str, progress: Loading) -> None:
        """Print at the first report of a stage and at each fifth."""
        fifth = 5 * progress.done // progress.total if progress.total else 5
        if self._fifths.get((name, progress.stage)) == fifth:
            return
        self._fifths[name, progress.stage] = fifth
        self._print(name, f"loading {progress.stage}: {20 * fifth}%")

    def listening(self, name: str, address: Address) -> None:
        """Print where the child listens."""
        self._print(name, f"listening on {address.url}")

    def ready(self, name: str) -> None:
        """Print that the child is ready."""
        self._fifths = {key: value for key, value in self._fifths.items() if key[0] != name}
        self._print(name, "ready")

    def line(self, name: str, text: str) -> None:
        """Print the line behind the child's name."""
        self._print(name, text)

    def note(self, text: str) -> None:
        """Print the note as the fleet's own line."""
        self._print("baton", text)

    def serving(self, pairs: str, address: Address, curl: str) -> None:
        """Print the line to wait for, the URL and a request to try."""
        self.note(f"{pairs}; serving on {address.url}")
        self._out.write(f"\nTry:\n\n{curl}\n\nor, in a second terminal: baton chat --url {address.url}\n\n")
        self._out.flush()

    def failure(self, failure: ShowFailure) -> None:
        """Print who failed, why, and its last lines."""
        self.note(f"error: {failure.name} did not start: {failure.reason}")
        for text in failure.last_lines:
            self._print("  " + failure.name, text)

    def close(self) -> None:
        """Nothing is held."""

    def _print(self, name: str, text: str) -> None:
        self._out.write(f"{name:>10} | {text}\n")
        self._out.flush()


class TerminalScreen:
    """Bars below, coloured log lines above them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._colours: dict[str, str] = {"baton": "bold white"}
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.fields[child]:>10}"),
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            console=console,
            transient=True,
        )

    def started(self, name: str, pid: int) -> None:
        """Say the process id, for whoever wants to signal one child."""
        self._print(name, f"[dim]started, pid {pid}[/dim]")

    def loading(self, name: str, progress: Loading) -> None:
        """Move the child's bar; it appears with the first report."""
        if name not in self._bars:
            self._progress.start()
            self._bars[name] = self._progress.add_task(progress.stage, child=name)
        self._progress.update(
            self._bars[name], description=progress.stage, completed=progress.done, total=progress.total
        )

    def listening(self, name: str, address: Address) -> None:
        """Print where the child listens."""
        self._print(name, f"[dim]listening on {address.url}[/dim]")

    def ready(self, name: str) -> None:
        """Take the child's bar away, and the display with the last one."""
        if name in self._bars:
            self._progress.remove_task(self._bars.pop(name))
        if not self._bars:
            self._progress.stop()
        self._print(name, "[green]ready[/green]")

    def line(self, name: str, text: str) -> None:
        """Print the line behind the child's coloured name."""
        self._print(name, escape(text))

    def note(self, text: str) -> None:
        """Print the note as the fleet's own line."""
        self._print("baton", f"[bold]{escape(text)}[/bold]")

    def serving(self, pairs: str, address: Address, curl: str) -> None:
        """Print the line to wait for, the URL and a request to try."""
        self._print("baton", f"[bold green]{pairs}; serving on {address.url}[/bold green]")
        self._console.print("\nTry:\n")
        # Unwrapped and unstyled, so that it can be copied as it stands.
        self._console.print(curl, markup=False, highlight=False, soft_wrap=True)
        self._console.print(f"\nor, in a second terminal: [bold]baton chat --url {address.url}[/bold]\n")

    def failure(self, failure: ShowFailure) -> None:
        """Print who failed, why, and its last lines."""
        self.close()
        reason = escape(failure.reason)
        self._print("baton", f"[bold red]error: {failure.name} did not start: {reason}[/bold red]")
        for text in failure.last_lines:
            self._print(failure.name, f"[dim]{escape(text)}[/dim]")

    def close(self) -> None:
        """Take the bars away."""
        self._progress.stop()

    def _print(self, name: str, text: str) -> None:
        colour = self._colours.setdefault(name, _COLOURS[(len(self._colours) - 1) % len(_COLOURS)])
        self._console.print(f"[{colour}]{name:>10}[/] | {text}", highlight=False, soft_wrap=True)


class JsonScreen:
    """One JSON object a line: what a script or a benchmark reads."""

    def __init__(self, out: TextIO, log: TextIO) -> None:
        self._out = out
        self._log = log

    def started(self, name: str, pid: int) -> None:
        """`{"event": "started", "name", "pid"}`."""
        self._emit("started", name=name, pid=pid)

    def loading(self, name: str, progress: Loading) -> None:
        """`{"event": "loading", "name", "stage", "done", "total"}`."""
        self._emit("loading", name=name, stage=progress.stage, done=progress.done, total=progress.total)

    def listening(self, name: str, address: Address) -> None:
        """`{"event": "listening", "name", "url"}`."""
        self._emit("listening", name=name, url=address.url)

    def ready(self, name: str) -> None:
        """`{"event": "ready", "name"}`."""
        self._emit("ready", name=name)

    def line(self, name: str, text: str) -> None:
        """Logs go to standard error."""
        self._log.write(f"{name} | {text}\n")
        self._log.flush()

    def note(self, text: str) -> None:
        """`{"event": "note", "text"}`."""
        self._emit("note", text=text)

    def serving(self, pairs: str, address: Address, curl: str) -> None:
        """`{"event": "serving", "url", "text"}`."""
        self._emit("serving", url=address.url, text=pairs)

    def failure(self, failure: ShowFailure) -> None:
        """`{"event": "failure", "name", "reason", "last_lines"}`."""
        self._emit("failure", name=failure.name, reason=failure.reason, last_lines=failure.last_lines)

    def close(self) -> None:
        """Nothing is held."""

    def _emit(self, event: str, **fields: object) -> None:
        self._out.write(msgspec.json.encode({"event": event, **fields}).decode() + "\n")
        self._out.flush()


def choose_screen(*, json_events: bool) -> Screen:
    """Return the screen that fits where standard output goes."""
    if json_events:
        return JsonScreen(sys.stdout, sys.stderr)
    if sys.stdout.isatty():
        return TerminalScreen(Console())
    return PlainScreen(sys.stdout)
