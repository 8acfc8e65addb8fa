"""What a prefill worker answers, as far as the proxy reads it. No I/O."""

import msgspec

from .usage import account_of
from .worker_words import NO_USAGE, Usage, ends_decoder, offer_decoder, prefilled_decoder


class PrefillAnswer:
    """What the proxy reads of a prefill worker's answer."""

    __slots__ = ("account", "kv", "tokens", "usage")

    def __init__(
        self, kv: msgspec.Raw | None, tokens: int | None, usage: Usage, account: msgspec.Raw | None
    ) -> None:
        self.kv = kv
        """The hand-over as it came, if there is one."""
        self.tokens = tokens
        """Prompt tokens that it holds."""
        self.usage = usage
        self.account = account
        """The worker's account of itself."""


def read_prefill_answer(raw: bytes) -> PrefillAnswer:
    """Return what a prefill worker answered. Raises `msgspec.DecodeError` for anything but an object."""
    answer = prefilled_decoder.decode(raw)
    kv, usage = answer.kv_transfer_params, answer.usage or NO_USAGE
    if bytes(kv) == b"null":
        return PrefillAnswer(None, None, usage, account_of(answer.baton))
    return PrefillAnswer(kv, offer_decoder.decode(kv).remote_num_tokens, usage, account_of(answer.baton))


def was_aborted(raw: bytes) -> bool:
    """Whether a prefill worker's answer says that it was aborted. Raises `msgspec.DecodeError`."""
    return any(choice.finish_reason == "abort" for choice in ends_decoder.decode(raw).choices)
