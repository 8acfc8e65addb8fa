"""The shapes that workers' answers are decoded into, as far as the proxy reads them. No I/O."""

import msgspec

NULL = msgspec.Raw(b"null")


class Details(msgspec.Struct, frozen=True):
    """Beside the tokens of a prompt."""

    cached_tokens: int | None = None


class Usage(msgspec.Struct, frozen=True):
    """The `usage` object of an answer; None where it does not say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: Details | None = None


class Answer(msgspec.Struct, frozen=True):
    """An answer, or the event of a stream that has its usage."""

    usage: Usage | None = None
    baton: msgspec.Raw = msgspec.Raw(b"null")  # a union with Raw would refuse everything but null


class Prefilled(msgspec.Struct, frozen=True):
    """A prefill worker's answer."""

    kv_transfer_params: msgspec.Raw = NULL
    usage: Usage | None = None
    baton: msgspec.Raw = msgspec.Raw(b"null")


class Offer(msgspec.Struct, frozen=True):
    """The `kv_transfer_params` of a prefill worker's answer."""

    remote_num_tokens: int | None = None


class Choice(msgspec.Struct, frozen=True):
    """One of an answer's choices."""

    finish_reason: str | None = None


class Ends(msgspec.Struct, frozen=True):
    """How an answer's choices ended."""

    choices: list[Choice] = []


NO_USAGE = Usage()
answer_decoder = msgspec.json.Decoder(Answer)
prefilled_decoder = msgspec.json.Decoder(Prefilled)
offer_decoder = msgspec.json.Decoder(Offer)
ends_decoder = msgspec.json.Decoder(Ends)
