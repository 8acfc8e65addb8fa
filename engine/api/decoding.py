"""Bytes of a request body to a checked struct, or an `ApiError` that names the field at fault. No I/O."""

import json
import re
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from .errors import ApiError

T = TypeVar("T")

_AT_PATH = re.compile(r" - at (?:`(?:key|value)` in )?`\$\.?(?P<path>[^`]*)`$")
_SURROGATE = re.compile("[\ud800-\udfff]")
_MISSING = re.compile(r"missing required field `(?P<field>[^`]+)`$")


def decode_body(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode `body`. Raises `ApiError` 400 naming the first field that is wrong."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(body, str(error)) from error


def _invalid(message: str) -> ApiError:
    """Name the field of a type or range error by the path at its end."""
    place = _AT_PATH.search(message)
    path = "" if place is None else place["path"]
    reason = message if place is None else message[: place.start()]
    missing = _MISSING.search(reason)
    if missing is not None:
        path = f"{path}.{missing['field']}" if path else missing["field"]
        reason = "this field is required"
    reason = reason.replace("`", "").replace(" | null", "")
    if not path:
        return ApiError(400, f"the request body must be a JSON object: {reason[0].lower()}{reason[1:]}")
    return ApiError(400, f"`{path}`: {reason[0].lower()}{reason[1:]}", param=top_level(path))


def top_level(path: str) -> str:
    """Return the request's own field of a path: `messages` of `messages[0].content`."""
    return re.split(r"[.\[]", path, maxsplit=1)[0]


def _malformed(body: bytes, reason: str) -> ApiError:
    """Name the field, where the only fault is text that is no Unicode or a number that is none."""
    try:
        document = json.loads(body.decode("utf-8", "surrogateescape"), parse_constant=_NotANumber)
        found = _first_offence(document, "")
    except (ValueError, RecursionError):
        found = None
    if found is None:
        return ApiError(400, f"the request body is not valid JSON: {reason}", code="invalid_json")
    path, message = found
    return ApiError(400, f"`{path}`: {message}", param=top_level(path))


class _NotANumber:
    """What the lenient parser puts where NaN or Infinity stood."""

    def __init__(self, literal: str) -> None:
        self.literal = literal


def _first_offence(value: Any, path: str) -> tuple[str, str] | None:
    if isinstance(value, _NotANumber):
        return path, f"{value.literal} is not a JSON number"
    if isinstance(value, str):
        return (path, "the text holds a lone surrogate or invalid UTF-8") if _not_unicode(value) else None
    if isinstance(value, list):
        return _first_of((f"{path}[{place}]", item) for place, item in enumerate(value))
    if isinstance(value, dict):
        if any(_not_unicode(key) for key in value):
            return path or "(body)", "a field's name holds a lone surrogate or invalid UTF-8"
        return _first_of((f"{path}.{key}" if path else key, item) for key, item in value.items())
    return None


def _first_of(items: Iterable[tuple[str, Any]]) -> tuple[str, str] | None:
    offences = (_first_offence(item, path) for path, item in items)
    return next((offence for offence in offences if offence is not None), None)


def _not_unicode(text: str) -> bool:
    return _SURROGATE.search(text) is not None
