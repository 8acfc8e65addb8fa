"""The `usage` object of an answer and the `baton` object beside it: who served it and where the time went."""

import msgspec

from ...kvtransfer.params import KvTransferParams, PrefillReport
from ..messages import FirstToken
from .progress import PromptProgress


class PromptTokensDetails(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the prompt was not computed for this request."""

    cached_tokens: int


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class Phases(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds before the first token; null where a phase did not happen or is not known."""

    queue_s: float | None = None
    """Waiting, on the prefill worker and here."""
    prefill_s: float | None = None
    """Computing the prompt, on the prefill worker or here."""
    transfer_s: float | None = None
    first_step_s: float | None = None


class BatonReport(msgspec.Struct, frozen=True, kw_only=True):
    """What Baton tells about one answer."""

    prefill_worker: str | None
    decode_worker: str | None
    prompt_tokens: int
    cached_tokens: int
    kv_bytes: int
    phases: Phases
    ttft_s: float | None
    """The prefill worker's queue and prefill, and from arrival at this worker to the first token."""
    decode_tokens_per_s: float | None
    """After the first token, of one choice; null for a single token."""
    recomputed: bool
    """KV was to be pulled but could not be used: this worker computed the prompt itself."""


def usage_of(prompts: list[PromptProgress]) -> Usage:
    """Return the token counts over all prompts of one HTTP request."""
    prompt_tokens = sum(len(prompt.generate.prompt_token_ids) for prompt in prompts)
    completion_tokens = sum(prompt.completion_tokens for prompt in prompts)
    cached_tokens = sum(prompt.first.cached_tokens for prompt in prompts if prompt.first is not None)
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=cached_tokens),
    )


def report_of(prompts: list[PromptProgress], worker: str) -> BatonReport:
    """Return the report of one HTTP request served by `worker`; times are those of its first prompt."""
    prompt = prompts[0]
    usage = usage_of(prompts)
    prefill = _pulled_prefill(prompt)
    return BatonReport(
        prefill_worker=worker if not _was_pulled(prompt) else prefill.worker if prefill else None,
        decode_worker=None if prompt.wants_offer else worker,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.prompt_tokens_details.cached_tokens,
        kv_bytes=sum(each.first.kv_bytes for each in prompts if each.first is not None),
        phases=_phases(prompt.first, prefill),
        ttft_s=_ttft_s(prompt, prefill),
        decode_tokens_per_s=_decode_rate(prompt),
        recomputed=any(each.first is not None and each.first.recomputed for each in prompts),
    )


def offer_of(prompt: PromptProgress, worker: str) -> KvTransferParams | None:
    """Return the engine's offer with this worker's part of the report filled in."""
    if prompt.offer is None:
        return None
    phases = None if prompt.first is None else prompt.first.phases
    report = PrefillReport(
        worker=worker,
        queue_s=(phases.queue_s if phases else None) or 0.0,
        prefill_s=(phases.prefill_s if phases else None) or 0.0,
    )
    return msgspec.structs.replace(prompt.offer, baton_prefill=report)


def _was_pulled(prompt: PromptProgress) -> bool:
    transfer = prompt.generate.kv_transfer
    recomputed = prompt.first is not None and prompt.first.recomputed
    return transfer is not None and transfer.do_remote_prefill and not recomputed


def _pulled_prefill(prompt: PromptProgress) -> PrefillReport | None:
    transfer = prompt.generate.kv_transfer
    return transfer.baton_prefill if transfer is not None and _was_pulled(prompt) else None


def _phases(first: FirstToken | None, prefill: PrefillReport | None) -> Phases:
    if first is None:
        return Phases()
    queue_s, prefill_s = first.phases.queue_s, first.phases.prefill_s
    if prefill is not None:
        queue_s = (queue_s or 0.0) + prefill.queue_s
        prefill_s = prefill.prefill_s
    return Phases(
        queue_s=queue_s,
        prefill_s=prefill_s,
        transfer_s=first.phases.transfer_s,
        first_step_s=first.phases.first_step_s,
    )


def _ttft_s(prompt: PromptProgress, prefill: PrefillReport | None) -> float | None:
    if prompt.first_token_at is None:
        return None
    before = 0.0 if prefill is None else prefill.queue_s + prefill.prefill_s
    return before + prompt.first_token_at - prompt.arrived_at


def _decode_rate(prompt: PromptProgress) -> float | None:
    first, last = prompt.first_token_at, prompt.last_token_at
    tokens = max(choice.completion_tokens for choice in prompt.choices) - 1
    if first is None or last is None or last <= first or tokens < 1:
        return None
    return tokens / (last - first)
