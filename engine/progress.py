"""What the frontend is told of a request's progress: its first token, each token, its end. Pure."""

from ..kvtransfer.params import PrefillReport
from .messages import FinishReason, FirstToken, PhaseTimes, SequenceOutput, TokenLogprob
from .sequence import Request, Sequence


def finish_reason(sequence: Sequence, max_model_len: int) -> FinishReason | None:
    """Return why the sequence ends with its last token; None when it goes on."""
    generate, tokens = sequence.request.generate, sequence.tokens
    sampling, generated = generate.sampling, len(tokens) - len(generate.prompt_token_ids)
    if tokens[-1] in sampling.stop_token_ids and generated > sampling.min_tokens:
        return FinishReason.STOP
    if generated >= sampling.max_tokens or len(tokens) >= max_model_len:
        return FinishReason.LENGTH
    return None


def tokens_output(
    sequence: Sequence,
    token_ids: list[int],
    logprobs: list[TokenLogprob | None],
    finish: FinishReason | None,
) -> SequenceOutput:
    """Return the message part for the sequence's last tokens, one step's."""
    reported = [logprob for logprob in logprobs if logprob is not None]
    return SequenceOutput(
        request_id=sequence.request.generate.request_id,
        choice=sequence.choices[0],
        token_ids=token_ids,
        logprobs=reported or None,
        finish=finish,
        stop_token_id=token_ids[-1] if finish is FinishReason.STOP else None,
    )


def aborted_outputs(request: Request) -> list[SequenceOutput]:
    """Return the last output of every choice that is still open, for those who wait for it."""
    return [
        SequenceOutput(request_id=request.id, choice=choice, token_ids=[], finish=FinishReason.ABORT)
        for sequence in request.sequences
        for choice in sequence.choices
    ]


def first_token(request: Request, now: float) -> FirstToken:
    """Return the facts known once the first token is sampled at `now`."""
    timeline = request.timeline
    source = request.generate.kv_transfer
    was_pulled = source is not None and source.do_remote_prefill and not request.recomputed
    remote_cached = source.remote_prefill_cached_tokens if source is not None and was_pulled else None
    return FirstToken(
        request_id=request.id,
        cached_tokens=max(timeline.cached_tokens, remote_cached or 0),
        kv_bytes=timeline.kv_bytes,
        phases=phase_times(request, source.baton_prefill if source is not None and was_pulled else None, now),
        recomputed=request.recomputed,
    )


def phase_times(request: Request, report: PrefillReport | None, now: float) -> PhaseTimes:
    """Return where the time went; a remote prefill's own `report` stands for queue and prefill."""
    timeline = request.timeline
    admitted_at, started_at, ready_at = (
        timeline.admitted_at,
        timeline.prefill_started_at,
        timeline.kv_ready_at,
    )
    queue_s = None if admitted_at is None else admitted_at - timeline.arrived_at
    prefill_s = None if started_at is None or ready_at is None else ready_at - started_at
    return PhaseTimes(
        queue_s=queue_s if report is None else report.queue_s,
        prefill_s=prefill_s if report is None else report.prefill_s,
        transfer_s=timeline.transfer_s,
        # After a local prefill the first token comes from the last chunk itself: there is no such phase.
        first_step_s=None if started_at is not None or ready_at is None else now - ready_at,
    )
