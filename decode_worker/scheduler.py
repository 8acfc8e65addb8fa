"""The decode worker's scheduler: pulls KV, keeps the batch decoding, prefills only what it must. No I/O.

The life of a request with `do_remote_prefill`:

1. Its tokens are compared with the digest of those the prefill worker computed. Other tokens: the lease is
   acknowledged unread, and this worker computes the prompt itself.
2. It is admitted in order of age once the pool has room: cached blocks first, the others are pulled.
   Nothing to pull: an acknowledgement goes out, and the sequence decodes at once.
3. `PullFinished`: KV of all tokens but the last counts as computed. The last prompt token runs as an ordinary
   decode row, so the first token comes from this worker's own sampler.
4. `PullFailed`: the blocks go back, or into quarantine while the transfer may still write; the request waits
   again at the place of its age and is computed here.

A request without it prefills here, in chunks between decode steps.
"""

from ..engine.intake import Limits, bad_request
from ..engine.kv_cache import KvCache
from ..engine.messages import Generate
from ..engine.scheduler import Scheduler
from ..engine.sequence import Request, Sequence, Stage
from ..engine.step import CancelPull, Command
from ..kvtransfer.digest import token_digest
from ..kvtransfer.params import KvTransferParams, single_group_block_ids
from ..kvtransfer.service import Pull, PullFailed, PullFinished, QuarantineLifted, TransferEvent
from .pulls import PullTable

INTERLEAVED_SHARE = 4
"""While sequences decode, a step computes one in so many of the prompt tokens it may: all wait for it."""

_ADDRESS_FIELDS = ("remote_engine_id", "remote_request_id", "remote_host", "remote_port", "remote_block_ids")


class DecodeScheduler(Scheduler):
    """Decodes prompts that prefill workers computed; serves whole requests beside."""

    def __init__(self, limits: Limits, cache: KvCache) -> None:
        super().__init__(limits, cache)
        self._pulls = PullTable(cache.pool)

    def check_handover(self, generate: Generate) -> None:
        """Refuse to offer, and a hand-over that does not say where its blocks are."""
        params = generate.kv_transfer
        if params is None:
            return
        if params.do_remote_decode:
            raise bad_request(
                "kv_transfer_params.do_remote_decode",
                "this is a decode worker: it does not hold KV for another one",
            )
        if params.do_remote_prefill:
            _check_source(params)

    def on_arrival(self, request: Request) -> list[Command]:
        """Decide whether the offered KV is that of this prompt."""
        params = request.generate.kv_transfer
        if params is None or not params.do_remote_prefill:
            return []
        request.kv_source = params
        if self._is_of_this_prompt(params, request.generate.prompt_token_ids):
            return []
        return self._give_source_up(request)

    def prefill_budget(self) -> int:
        """Return the whole budget when nothing decodes, a share of it otherwise."""
        budget = self.limits.max_batched_tokens
        return max(1, budget // INTERLEAVED_SHARE) if self.roster.decoding else budget

    def admit(self, now: float) -> list[Command]:
        """Seat verified sequences, then start waiting ones in order; lack of blocks stops all younger."""
        self._seat_ready(now)
        commands: list[Command] = []
        budget = self.unplanned_budget()
        local_may_start = True
        for sequence in list(self.roster.waiting):
            is_remote = sequence.request.kv_source is not None
            if not is_remote:
                local_may_start = local_may_start and budget > 0 and self.has_seats(sequence)
            if not is_remote and not local_may_start:
                continue  # a younger pull needs neither budget nor a seat yet
            if not self.take_blocks(sequence):
                break
            if is_remote:
                commands += self._start_pull(sequence, now)
            else:
                self.begin(sequence, now)
                budget -= sequence.uncomputed
        self._seat_ready(now)
        return commands

    def on_transfer_event(self, event: TransferEvent, now: float) -> list[Command]:
        """Let a pulled sequence decode, or have a failed one computed here."""
        match event:
            case PullFinished():
                self._on_pull_finished(event, now)
            case PullFailed():
                self._on_pull_failed(event)
            case QuarantineLifted():
                self._pulls.finish(event.pull_id)
            case _:
                pass
        return []

    def take_back(self, sequence: Sequence) -> list[Command]:
        """Get the blocks of a sequence back that is cut off; a source that was not read is let go."""
        commands: list[Command] = []
        if sequence.stage is Stage.PULLING:
            commands.append(CancelPull(self._pulls.abandon(sequence)))
        elif sequence.request.kv_source is not None:
            commands += self._give_source_up(sequence.request)
        return commands + super().take_back(sequence)

    def quarantined(self) -> list[int]:
        """Return the blocks that a transfer may still write into, without an owner."""
        return self._pulls.quarantined()

    @property
    def pulls(self) -> int:
        """Pulls and acknowledgements that are not terminal."""
        return len(self._pulls)

    def _is_of_this_prompt(self, params: KvTransferParams, prompt: list[int]) -> bool:
        # A source without a digest cannot be verified, so its KV is not used.
        return (
            params.baton_token_digest == token_digest(prompt)
            and params.remote_num_tokens in (None, len(prompt))
            and len(single_group_block_ids(params)) == self.cache.blocks_for(len(prompt))
        )

    def _start_pull(self, sequence: Sequence, now: float) -> list[Command]:
        params = sequence.request.kv_source
        assert params is not None
        self.note_admission(sequence, now)
        cached = sequence.num_computed
        if cached == len(sequence.tokens) - 1:
            sequence.request.kv_source = None
            sequence.request.timeline.kv_ready_at = now
            self.roster.move(sequence, Stage.READY)
            return [self._pull_of(sequence.request, params, None, [], [])]
        first = cached // self.cache.block_tokens
        local, remote = sequence.blocks[first:], single_group_block_ids(params)[first:]
        self.roster.move(sequence, Stage.PULLING)
        return [self._pull_of(sequence.request, params, sequence, local, remote)]

    def _pull_of(
        self,
        request: Request,
        params: KvTransferParams,
        sequence: Sequence | None,
        local: list[int],
        remote: list[int],
    ) -> Pull:
        assert params.remote_engine_id is not None
        assert params.remote_request_id is not None
        assert params.remote_host is not None
        assert params.remote_port is not None
        return Pull(
            pull_id=self._pulls.start(request.id, sequence, local).pull_id,
            incarnation=params.remote_engine_id,
            host=params.remote_host,
            port=params.remote_port,
            lease_id=params.remote_request_id,
            remote_block_ids=tuple(remote),
            local_block_ids=tuple(local),
        )

    def _give_source_up(self, request: Request) -> list[Command]:
        """Acknowledge an offer unread, so that the prefill worker need not wait for the lease to expire."""
        params = request.kv_source
        assert params is not None
        request.forget_kv()
        return [self._pull_of(request, params, None, [], [])]

    def _seat_ready(self, now: float) -> None:
        for sequence in list(self.roster.ready):
            if not self.has_seats(sequence):
                return
            self.begin(sequence, now)

    def _on_pull_finished(self, event: PullFinished, now: float) -> None:
        sequence = self._pulls.finish(event.pull_id)
        self.counters.kv_bytes_pulled += event.kv_bytes
        if sequence is None:
            return
        request, last = sequence.request, len(sequence.tokens) - 1
        request.kv_source = None
        request.timeline.pulled_tokens = last - sequence.num_computed
        request.timeline.kv_bytes = event.kv_bytes
        request.timeline.transfer_s = event.transfer_s
        request.timeline.kv_ready_at = now
        sequence.num_computed = last
        self.cache.publish(sequence)
        self.roster.move(sequence, Stage.READY)

    def _on_pull_failed(self, event: PullFailed) -> None:
        self.counters.pulls_failed[event.reason.value] += 1
        finished = self._pulls.finish if event.blocks_reusable else self._pulls.fail
        sequence = finished(event.pull_id)
        if sequence is None:
            return
        sequence.request.forget_kv()
        self.cache.release(sequence)
        self.roster.move(sequence, Stage.WAITING)


def _check_source(params: KvTransferParams) -> None:
    """Raise `Refused` unless the hand-over names everything a pull needs."""
    for field in _ADDRESS_FIELDS:
        if not getattr(params, field):
            raise bad_request(f"kv_transfer_params.{field}", f"kv_transfer_params.{field} is missing")
    try:
        blocks = single_group_block_ids(params)
    except ValueError as error:
        raise bad_request("kv_transfer_params.remote_block_ids", str(error)) from error
    if min(blocks, default=-1) < 0:
        raise bad_request("kv_transfer_params.remote_block_ids", "remote_block_ids must be block numbers")
