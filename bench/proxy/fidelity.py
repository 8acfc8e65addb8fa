"""What a router changed in a request on its way to a worker."""

from collections.abc import Mapping
from typing import Any

from .scripted import KV_FIELDS


def changes_of_body(sent: Mapping[str, Any], arrived: Mapping[str, Any]) -> str:
    """Return the fields that were dropped, changed and added, hand-over fields aside."""
    dropped = [name for name in sent if name not in arrived]
    changed = [
        f"{name} {value!r} -> {arrived[name]!r}"
        for name, value in sent.items()
        if name in arrived and arrived[name] != value
    ]
    added = [name for name in arrived if name not in sent and name not in KV_FIELDS]
    parts = [
        f"{verb} {', '.join(names)}"
        for verb, names in (("drops", dropped), ("changes", changed), ("adds", added))
        if names
    ]
    return "; ".join(parts) or "unchanged"


def changes_of_headers(sent: Mapping[str, str], arrived: Mapping[str, str]) -> str:
    """Return the headers that were kept, dropped and replaced; `arrived` has names in lower case."""
    kept: list[str] = []
    dropped: list[str] = []
    replaced: list[str] = []
    for name, value in sent.items():
        there = arrived.get(name.lower())
        (dropped if there is None else kept if there == value else replaced).append(name)
    parts = [
        f"{verb} {', '.join(names)}"
        for verb, names in (("keeps", kept), ("drops", dropped), ("replaces", replaced))
        if names
    ]
    return "; ".join(parts)
