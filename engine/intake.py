"""Which requests an engine takes: limits, and the refusals that name what is wrong. Pure.

The frontend has checked types and ranges already; here stands what depends on the model and the pool, and
what would break a step if it came through all the same.
"""

from collections.abc import Sequence

import msgspec

from .messages import FailureKind, Generate, RequestFailed
from .sampling_state import InvalidSamplingError, check_token_ids


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one engine can hold."""

    max_model_len: int
    """Tokens a sequence at most; no more than the pool holds."""
    vocab_size: int
    max_num_seqs: int
    max_batched_tokens: int
    max_waiting: int
    draft_tokens: int = 0
    """Guesses a step and sequence at most."""


class RefusalError(Exception):
    """The request cannot be served; carries what the client is told."""

    def __init__(self, kind: FailureKind, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.param = param

    def failure_of(self, request_id: str) -> RequestFailed:
        """Return the message to the frontend."""
        return RequestFailed(request_id=request_id, kind=self.kind, message=str(self), param=self.param)


def bad_request(param: str, message: str) -> RefusalError:
    """Return a refusal that is the client's fault."""
    return RefusalError(FailureKind.BAD_REQUEST, message, param)


def check_fits(generate: Generate, limits: Limits) -> None:
    """Raise `RefusalError` for a request that this engine could never finish."""
    prompt = generate.prompt_token_ids
    if not prompt:
        raise bad_request("prompt", "the prompt has no tokens")
    if len(prompt) + 1 > limits.max_model_len:
        raise bad_request(
            "prompt",
            f"the prompt has {len(prompt)} tokens, but this worker holds {limits.max_model_len} a sequence, "
            "at least one of them generated",
        )
    if not 1 <= generate.n <= limits.max_num_seqs:
        raise bad_request("n", f"n is {generate.n}; this worker runs 1 to {limits.max_num_seqs} sequences")
    if generate.sampling.max_tokens < 1:
        raise bad_request("max_tokens", f"max_tokens is {generate.sampling.max_tokens}; at least 1 is needed")
    _check_vocabulary(prompt, generate, limits.vocab_size)


def _check_vocabulary(prompt: Sequence[int], generate: Generate, vocab_size: int) -> None:
    for token_id in (min(prompt), max(prompt)):
        if not 0 <= token_id < vocab_size:
            raise bad_request("prompt", f"token id {token_id} is not in 0..{vocab_size - 1}")
    try:
        check_token_ids(generate.sampling, vocab_size)
    except InvalidSamplingError as error:
        raise bad_request(error.param, str(error)) from error
