"""A request body: its top level is decoded, all below stays the client's bytes.

The prefill leg gets the same fields with a few replaced; the decode leg gets the client's very bytes with
prefill's `kv_transfer_params` spliced in before the last brace. Floats, unknown fields and odd Unicode are
thus the worker's to judge. Long bodies are split in C (`top_level.c`) where that was compiled. No I/O.
"""

import json
from collections.abc import Callable
from typing import Final

import msgspec

from .errors import ApiError, bad_request

_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode: Final = msgspec.json.Encoder().encode
_name: Final[msgspec.json.Decoder[str | None]] = msgspec.json.Decoder(str | None)
_number: Final = msgspec.json.Decoder(int)
_items: Final = msgspec.json.Decoder(list[msgspec.Raw])

KV_FIELD: Final = "kv_transfer_params"
ONE: Final = msgspec.Raw(b"1")
FALSE: Final = msgspec.Raw(b"false")
ASK_FOR_KV: Final = msgspec.Raw(
    b'{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,'
    b'"remote_block_ids":null,"remote_host":null,"remote_port":null}'
)
PREFILL_DROPS: Final = ("stream_options", "min_tokens", "best_of")
"""Fields that contradict one token unstreamed; the decode leg validates and applies them."""
SPLICED_BYTES: Final = 16 * 1024
"""A body from this size on is sent in pieces; of a smaller one a copy costs less."""
SPLIT_IN_C_BYTES: Final = 4 * 1024
"""A body from this size on is split in C; a shorter one takes msgspec no longer."""
TEXT_BYTES_PER_TOKEN: Final = 4
_BESIDE_TEXT: Final = ("logprobs", "return_token_ids", "use_beam_search", "prompt_logprobs")
"""Fields that ask for more than text."""
_SEVERAL: Final = (*_BESIDE_TEXT, "n", "best_of", "prompt")
"""Without any of these, one text is asked for."""
_ZEROS: Final = (b"0", b"0.0", b"0.00")
_LIMITS: Final = ("max_completion_tokens", "max_tokens")
_FIRST_ITEM_BYTES: Final = 16
_PROMPTS: Final = (b'"', b"[", b"{")
"""How the first item of a list of prompts begins."""
EXPLAINED_BYTES = 1024 * 1024
"""A longer bad body is refused without looking for the field at fault."""


def _split_in_c() -> Callable[[bytes], dict[str, msgspec.Raw] | None] | None:
    """Return what splits an object as `_fields` does, or gives up; None where it was not compiled."""
    try:
        from .top_level import split  # noqa: PLC0415
    except ImportError:
        return None
    return split


_split: Final = _split_in_c()


class BodyError(ValueError):
    """A body that is not usable; `error` is what to answer."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.message)
        self.error = error


class RequestBody:
    """One parsed body."""

    __slots__ = ("_fields", "_raw")

    def __init__(self, raw: bytes) -> None:
        """Split `raw`. Raises `BodyError` unless it is a JSON object."""
        fields = _split(raw) if _split is not None and len(raw) >= SPLIT_IN_C_BYTES else None
        self._fields = fields if fields is not None else _decoded(raw)
        # A client must not name the host that a decode worker pulls KV from.
        if self._fields.pop(KV_FIELD, None) is not None:
            raw = _encode(self._fields)
        self._raw = raw

    def model(self) -> str | None:
        """Return the model's name. Raises `BodyError` unless it is a string or absent."""
        raw = self._fields.get("model")
        if raw is None:
            return None
        try:
            return _name.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BodyError(bad_request("model must be a string", param="model")) from error

    def prompt(self) -> memoryview:
        """Return the bytes of the messages or the prompt, where they lie; empty if there are none."""
        return memoryview(self._fields.get("messages") or self._fields.get("prompt") or b"")

    def output_tokens(self, guess: int) -> int:
        """Estimate the answer's length: the client's limit, or `guess`."""
        for name in _LIMITS:
            limit = self._number(name)
            if limit is not None and limit > 0:
                return limit
        return guess

    def answers(self) -> int:
        """Return how many answers are asked for."""
        return max(self._number("n") or 1, self._number("best_of") or 1)

    def decode_only(self) -> bool:
        """Whether no KV hand-over can stand for the request: many prompts, logprobs of the prompt."""
        fields = self._fields
        if "prompt_logprobs" in fields and self._says("prompt_logprobs"):
            return True
        if "echo" in fields and self._says("echo") and self._says("logprobs"):
            return True
        return "prompt" in fields and self.prompt_count() not in (None, 1)

    def for_prefill(self) -> list[bytes | memoryview]:
        """Return the prefill leg's body in pieces: one token, unstreamed, the KV kept for a decode worker."""
        fields = dict(self._fields)
        for name in PREFILL_DROPS:
            fields.pop(name, None)
        fields["max_tokens"] = ONE
        for name in ("max_completion_tokens", "n"):
            if name in fields:
                fields[name] = ONE
        fields["stream"] = FALSE
        fields[KV_FIELD] = ASK_FOR_KV
        messages = fields.get("messages")
        if messages is None or len(self._raw) < SPLICED_BYTES:
            return [_encode(fields)]
        # Nearly all of it goes out as it lies in the client's bytes.
        del fields["messages"]
        return [b'{"messages":', memoryview(messages), b"," + _encode(fields)[1:]]

    @property
    def length(self) -> int:
        """Bytes of the body."""
        return len(self._raw)

    def streams_one_text(self) -> bool:
        """Whether one answer is asked for, as a stream, of nothing but text."""
        fields = self._fields
        if "stream" not in fields or not self._says("stream"):
            return False
        if not any(name in fields for name in _SEVERAL):
            return True
        one = self.answers() == 1 and self.prompt_count() in (None, 1)
        return one and not any(map(self._says, _BESIDE_TEXT))

    def repeats_itself(self) -> bool:
        """Whether the request says that it gets the same answer whenever it is computed."""
        fields = self._fields
        temperature = fields.get("temperature")
        if temperature is not None and bytes(temperature) in _ZEROS:
            return True
        return "seed" in fields and self._says("seed")

    def for_decode(self, kv: msgspec.Raw | None, seed: int | None = None) -> list[bytes | memoryview]:
        """Return the decode leg's body in pieces: the client's bytes, with what is given spliced in."""
        if kv is None and seed is None:
            return [self._raw]
        end = self._raw.rindex(b"}")
        comma = b"," if self._fields else b""
        splice = b"" if kv is None else b'%b"kv_transfer_params":%b' % (comma, kv)
        if seed is not None:
            splice += b'%b"seed":%d' % (b"," if splice else comma, seed)
        splice += b"}"
        if len(self._raw) < SPLICED_BYTES:
            return [self._raw[:end] + splice]
        return [memoryview(self._raw)[:end], splice]

    def prompt_count(self) -> int | None:
        """Return how many prompts a list of them holds; None for one that stands by itself."""
        prompt = self._fields.get("prompt")
        if prompt is None:
            return None
        # A long list of token ids is one prompt, and is not decoded to see that.
        if _first_item(bytes(memoryview(prompt)[:_FIRST_ITEM_BYTES])) not in _PROMPTS:
            return None
        return len(_items.decode(prompt))

    def with_fields(self, added: dict[str, msgspec.Raw]) -> list[bytes | memoryview]:
        """Return the client's bytes in pieces, with fields added, in place of its own of these names."""
        if not added.keys().isdisjoint(self._fields):
            return [_encode(self._fields | added)]
        comma = b"," if self._fields else b""
        return [memoryview(self._raw)[: self._raw.rindex(b"}")], comma, memoryview(_encode(added))[1:]]

    def unstreamed_with_fields(self, added: dict[str, msgspec.Raw]) -> bytes:
        """Return the same body, but to be answered whole."""
        fields = self._fields | {"stream": FALSE} | added
        fields.pop("stream_options", None)
        return _encode(fields)

    def _number(self, name: str) -> int | None:
        raw = self._fields.get(name)
        if raw is None:
            return None
        try:
            return _number.decode(raw)
        except msgspec.DecodeError:
            return None  # the worker names the field

    def _says(self, name: str) -> bool:
        raw = self._fields.get(name)
        return raw is not None and bytes(raw) not in (b"null", b"false")


def _decoded(raw: bytes) -> dict[str, msgspec.Raw]:
    """Return the fields of an object. Raises `BodyError` for anything else."""
    try:
        return _fields.decode(raw)
    except msgspec.ValidationError as error:
        raise BodyError(bad_request("the request body must be a JSON object")) from error
    except msgspec.DecodeError as error:
        raise BodyError(_explain(raw, error)) from error
    except RecursionError as error:
        raise BodyError(bad_request("the request body is nested too deeply")) from error
    except UnicodeDecodeError as error:
        raise BodyError(bad_request("the request body is not UTF-8")) from error


def _explain(raw: bytes, error: msgspec.DecodeError) -> ApiError:
    """Say what is wrong with a body that msgspec refuses, naming the field that holds half a character."""
    if b"\\u" in raw and len(raw) <= EXPLAINED_BYTES:
        try:
            fields = json.loads(raw)
        except ValueError:
            fields = None
        for name, value in fields.items() if isinstance(fields, dict) else ():
            if _has_lone_surrogate(name) or _has_lone_surrogate(json.dumps(value, ensure_ascii=False)):
                shown = name.encode("ascii", "backslashreplace").decode()
                return bad_request(f"{shown}: half of a surrogate pair is no character", param=shown)
    return bad_request(f"the request body is not JSON: {error}")


def _has_lone_surrogate(text: str) -> bool:
    return any(0xD800 <= ord(character) <= 0xDFFF for character in text)


def prompt_tokens_in(prompt: memoryview) -> int:
    """Estimate the length in tokens of a prompt as JSON: text, messages, or token ids."""
    if _first_item(bytes(prompt[:_FIRST_ITEM_BYTES])).isdigit():
        return bytes(prompt).count(b",") + 1
    return len(prompt) // TEXT_BYTES_PER_TOKEN + 1


def _first_item(start: bytes) -> bytes:
    """Return the first byte of a JSON array's first item; none if `start` begins no array."""
    return start[1:].lstrip(b" \t\r\n")[:1] if start[:1] == b"[" else b""
