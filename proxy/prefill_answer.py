"""What a prefill worker answers, as far as the proxy reads it. No I/O."""

import msgspec

from .usage import NO_USAGE, Usage, account_of

_NULL = msgspec.Raw(b"null")


class _PrefillAnswer(msgspec.Struct, frozen=True):
    kv_transfer_params: msgspec.Raw = _NULL
    usage: Usage | None = None
    baton: msgspec.Raw = msgspec.Raw(b"null")  # a union with Raw would refuse everything but null


class _Offer(msgspec.Struct, frozen=True):
    remote_num_tokens: int | None = None


_answer = msgspec.json.Decoder(_PrefillAnswer)
_offer = msgspec.json.Decoder(_Offer)


class PrefillAnswer(msgspec.Struct, frozen=True):
    """What the proxy reads of a prefill worker's answer."""

    kv: msgspec.Raw | None
    """The hand-over as it came, if there is one."""
    tokens: int | None
    """Prompt tokens that it holds."""
    usage: Usage
    account: msgspec.Raw | None
    """The worker's account of itself."""


def read_prefill_answer(raw: bytes) -> PrefillAnswer:
    """Return what a prefill worker answered. Raises `msgspec.DecodeError` for anything but an object."""
    answer = _answer.decode(raw)
    kv, usage = answer.kv_transfer_params, answer.usage or NO_USAGE
    if bytes(kv) == b"null":
        return PrefillAnswer(None, None, usage, account_of(answer.baton))
    return PrefillAnswer(kv, _offer.decode(kv).remote_num_tokens, usage, account_of(answer.baton))


class _Choice(msgspec.Struct, frozen=True):
    finish_reason: str | None = None


class _Ends(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []


_ends = msgspec.json.Decoder(_Ends)


def was_aborted(raw: bytes) -> bool:
    """Whether a prefill worker's answer says that it was aborted. Raises `msgspec.DecodeError`."""
    return any(choice.finish_reason == "abort" for choice in _ends.decode(raw).choices)
