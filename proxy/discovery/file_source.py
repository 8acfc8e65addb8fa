"""A YAML file that lists workers, read again when it changes. After a bad one the last good one stays.

    workers:
      - {url: "http://10.0.0.7:8100", role: prefill}
      - {url: "http://10.0.0.8:8200", role: decode, name: d0}

The file may be replaced by renaming, as editors and mounted ConfigMaps do.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import yaml

from ..config import ConfigError, WorkerAddress
from .settings import FileSettings
from .trouble import Trouble


class WorkerFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    workers: tuple[WorkerAddress, ...]
    """May be empty: then all workers are drained."""

    def __post_init__(self) -> None:
        titles = [worker.title for worker in self.workers]
        if twice := {title for title in titles if titles.count(title) > 1}:
            raise ValueError(f"workers: these stand twice: {', '.join(sorted(twice))}")


def read_worker_file(path: Path) -> tuple[WorkerAddress, ...]:
    """Return the workers that a file lists. Raises `ConfigError`, which names the file and the bad key."""
    try:
        return msgspec.convert(yaml.safe_load(path.read_text()), WorkerFile).workers
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}") from error


class FileSource:
    """One watched file."""

    def __init__(self, settings: FileSettings) -> None:
        self.name = f"file {settings.path}"
        self._path = Path(settings.path)
        self._interval_s = settings.interval_s
        self._trouble = Trouble(self.name)
        self._seen: tuple[int, int, int] | None = None

    @property
    def problem(self) -> str | None:
        """Why the file could not be used last time."""
        return self._trouble.problem

    async def run(self, found: Callable[[Sequence[WorkerAddress]], None]) -> None:
        """Look at the file until cancelled."""
        while True:
            try:
                workers = await asyncio.to_thread(self._read_if_changed)
            except ConfigError as error:
                self._trouble.report(str(error))
            else:
                if workers is not None:
                    self._trouble.report(None)
                    found(workers)
            await asyncio.sleep(self._interval_s)

    def _read_if_changed(self) -> tuple[WorkerAddress, ...] | None:
        try:
            status = self._path.stat()
        except OSError as error:
            self._seen = None
            raise ConfigError(f"{self._path}: {error.strerror}") from error
        seen = (status.st_mtime_ns, status.st_ino, status.st_size)
        if seen == self._seen:
            return None
        self._seen = seen
        return read_worker_file(self._path)
