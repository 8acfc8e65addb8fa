"""Settings of one process: a YAML file, flags over it, `--set key=value` over both; strict.

The structs that define the keys and their defaults belong to the processes (`engine/config.py`,
`proxy/config.py`); this module only fills them and turns every fault into one line that names the key.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec
import yaml

T = TypeVar("T")


class SettingsError(ValueError):
    """A setting is unknown, missing or of the wrong type; the message names it and where it stands."""


def load_settings(
    kind: type[T],
    *,
    file: Path | None = None,
    flags: Mapping[str, object] | None = None,
    overrides: Iterable[str] = (),
) -> T:
    """Return `kind` filled from `file`, then `flags` (None: not given), then `overrides` (`a.b=yaml`).

    Raises `SettingsError` with the path of the bad key.
    """
    settings = read_mapping(file) if file is not None else {}
    for key, value in (flags or {}).items():
        if value is not None:
            put(settings, key, value)
    for override in overrides:
        put(settings, *parse_override(override))
    source = f"{file}: " if file is not None else ""
    try:
        return msgspec.convert(settings, kind)
    except msgspec.ValidationError as error:
        raise SettingsError(source + _plain(str(error))) from error


def read_mapping(file: Path) -> dict[str, object]:
    """Return the mapping in a YAML file. Raises `SettingsError` when there is none."""
    try:
        content = yaml.safe_load(file.read_text())
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise SettingsError(f"{file}: expected a mapping of setting names to values")
    return content


def parse_override(text: str) -> tuple[str, object]:
    """Split `a.b=value`; the value is YAML, so `8`, `true`, `[1, 2]` and `null` mean what they look like."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise SettingsError(f"--set {text}: expected key=value")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise SettingsError(f"--set {text}: the value is not valid YAML") from error


def put(settings: dict[str, object], key: str, value: object) -> None:
    """Set the dotted `key` in nested mappings, making the mappings on the way."""
    *folders, last = key.split(".")
    for depth, folder in enumerate(folders):
        inner = settings.setdefault(folder, {})
        if not isinstance(inner, dict):
            raise SettingsError(
                f"{key}: {'.'.join(folders[: depth + 1])} is a value, not a group of settings"
            )
        settings = inner
    settings[last] = value


def _plain(message: str) -> str:
    """Rewrite msgspec's "... - at `$.a.b`" as "a.b: ..."."""
    what, at, path = message.partition(" - at `")
    if not at:
        return what
    return f"{path.rstrip('`').removeprefix('$').removeprefix('.')}: {what}"
