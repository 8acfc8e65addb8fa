"""From a request's fields to the engine's `SamplingParams`: defaults, cross-field checks, clipping."""

import msgspec

from ..messages import SamplingParams
from .errors import bad_field
from .schema import ChatRequest, CompletionRequest, GenerationRequest

COMPLETION_DEFAULT_TOKENS = 16
"""OpenAI's default for completions; chat completions may use the whole context."""

MAX_STOP_STRINGS = 16
LOGIT_BIAS_LIMIT = 100.0


class ModelLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What of the model bounds a request."""

    max_model_len: int
    """Prompt and generated tokens together."""
    vocab_size: int
    eos_token_ids: tuple[int, ...]


def stop_strings(request: GenerationRequest) -> tuple[str, ...]:
    """Return the request's stop strings. Raises `ApiError` naming `stop`."""
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    if len(stop) > MAX_STOP_STRINGS:
        raise bad_field("stop", f"expected at most {MAX_STOP_STRINGS} strings, got {len(stop)}")
    if not all(stop):
        raise bad_field("stop", "a stop string may not be empty")
    return tuple(stop)


def check_sampling(request: GenerationRequest, limits: ModelLimits) -> None:
    """Check what needs no prompt, so that a bad request ends before any tokenising. Raises `ApiError`."""
    stop_strings(request)
    max_tokens = _asked_tokens(request)
    if not is_prefill_leg(request) and max_tokens is not None and (request.min_tokens or 0) > max_tokens:
        raise bad_field("min_tokens", f"expected at most max_tokens ({max_tokens}), got {request.min_tokens}")
    for token_id in request.stop_token_ids or []:
        _check_token_id("stop_token_ids", token_id, limits)
    for token_id in request.logit_bias or {}:
        _check_token_id("logit_bias", token_id, limits)
    if isinstance(request, ChatRequest) and request.top_logprobs and not request.logprobs:
        raise bad_field("top_logprobs", "only allowed together with `logprobs: true`")
    if isinstance(request, CompletionRequest) and request.echo and request.logprobs is not None:
        raise bad_field("echo", "not supported together with `logprobs`")


def build_sampling(request: GenerationRequest, *, prompt_tokens: int, limits: ModelLimits) -> SamplingParams:
    """Return how to sample for a prompt of `prompt_tokens` tokens that is known to fit."""
    room = limits.max_model_len - prompt_tokens
    asked = _asked_tokens(request)
    max_tokens = room if asked is None else min(asked, room)
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=min(request.min_tokens or 0, max_tokens),
        temperature=_or(request.temperature, 1.0),
        top_k=request.top_k if request.top_k and request.top_k > 0 else None,
        top_p=_or(request.top_p, 1.0),
        min_p=_or(request.min_p, 0.0),
        presence_penalty=_or(request.presence_penalty, 0.0),
        frequency_penalty=_or(request.frequency_penalty, 0.0),
        repetition_penalty=_or(request.repetition_penalty, 1.0),
        logit_bias={
            token_id: max(-LOGIT_BIAS_LIMIT, min(LOGIT_BIAS_LIMIT, bias))
            for token_id, bias in (request.logit_bias or {}).items()
        },
        seed=request.seed,
        stop_token_ids=_stop_token_ids(request, limits),
        ignore_eos=bool(request.ignore_eos),
        logprobs=_logprobs(request),
    )


def is_prefill_leg(request: GenerationRequest) -> bool:
    """Whether a router made this of a client's request: its limits were cut, the rest is the client's."""
    return request.kv_transfer_params is not None and request.kv_transfer_params.do_remote_decode


def _asked_tokens(request: GenerationRequest) -> int | None:
    """None: what the context allows."""
    if not isinstance(request, ChatRequest):
        return COMPLETION_DEFAULT_TOKENS if request.max_tokens is None else request.max_tokens
    given = [limit for limit in (request.max_completion_tokens, request.max_tokens) if limit is not None]
    if is_prefill_leg(request):  # a router may have cut only one of the two
        return min(given, default=None)
    return given[0] if given else None


def _stop_token_ids(request: GenerationRequest, limits: ModelLimits) -> tuple[int, ...]:
    asked = request.stop_token_ids or []
    eos = () if request.ignore_eos else limits.eos_token_ids
    return tuple(dict.fromkeys([*asked, *eos]))


def _logprobs(request: GenerationRequest) -> int | None:
    if isinstance(request, ChatRequest):
        return (request.top_logprobs or 0) if request.logprobs else None
    assert isinstance(request, CompletionRequest)
    return request.logprobs


def _check_token_id(param: str, token_id: int, limits: ModelLimits) -> None:
    if not 0 <= token_id < limits.vocab_size:
        raise bad_field(param, f"token id {token_id} is outside the vocabulary of {limits.vocab_size}")


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
