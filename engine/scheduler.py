"""What both workers' schedulers share: a state machine over requests, fed events and the time. No I/O.

The life of a request that one worker serves whole:

1. `on_generate` refuses it by name or lets its trunk wait, oldest first.
2. `schedule` admits the oldest that fits: blocks for all its tokens, cached ones first. It prefills.
3. Each step computes chunks of the oldest prompts within a token budget, and one token of every decoding
   sequence. The last chunk of a prompt gives its first token; then the trunk forks into its choices.
4. When no block is left for a decode row, the newest sequence waits again, to be recomputed.
5. A choice that stops gives its blocks back; with the last one, `RequestDone` goes out.

`PrefillScheduler` adds leases, `DecodeScheduler` adds pulls, at the places marked below. The engine loop
calls `on_*` between steps, then `schedule`, launches the step, reports it when it has landed, and executes
all commands in order. It may launch one step behind another (`schedule_ahead`).
"""

from collections.abc import Iterable

from ..kvtransfer.service import TransferEvent
from .counters import Counters
from .in_flight import InFlight
from .intake import Limits, RefusalError, check_fits
from .kv_cache import KvCache, writes_into
from .messages import AbortResult, FailureKind, Generate, RequestDone, RequestFailed, StepOutputs
from .progress import aborted_outputs
from .results import Draw, StepResults
from .roster import Roster, by_age
from .run_ahead import inputs_in_flight, rows_ending
from .sequence import Request, Sequence, Stage, new_request
from .step import Chunk, Command, Send, Step

WATERMARK_SHARE = 50
"""One block in so many is kept back at admission, so that running sequences can grow before they preempt."""


class Scheduler:
    """Serves whole requests; the workers' schedulers extend it."""

    def __init__(self, limits: Limits, cache: KvCache) -> None:
        self.limits = limits
        self.cache = cache
        self.counters = Counters()
        self.requests: dict[str, Request] = {}
        self.roster = Roster()
        self.in_flight = InFlight(cache)
        self.is_draining = False
        self._watermark = max(1, cache.pool.total // WATERMARK_SHARE)
        self._arrivals = 0

    # -- what a worker's scheduler extends ------------------------------------------------------------------

    def check_handover(self, generate: Generate) -> None:
        """Raise `RefusalError` when `kv_transfer_params` asks for what this kind of worker does not do."""

    def on_arrival(self, request: Request) -> list[Command]:
        """Take note of a request that was accepted, before its trunk waits."""
        return []

    def on_transfer_event(self, event: TransferEvent, now: float) -> list[Command]:
        """Learn what the transfer side did."""
        return []

    def prefill_budget(self) -> int:
        """Return how many prompt tokens the next step may compute."""
        return self.limits.max_batched_tokens

    def admit(self, now: float) -> list[Command]:
        """Start waiting sequences in order, while there is budget, room in the batch and room in the pool."""
        budget = self.unplanned_budget()
        while self.roster.waiting and budget > 0:
            sequence = self.roster.waiting[0]
            if not self.has_seats(sequence) or not self.take_blocks(sequence):
                break
            self.begin(sequence, now)
            budget -= sequence.uncomputed
        return []

    def settle(self, sequence: Sequence, now: float) -> list[Command]:
        """Account for the blocks of a choice that ended by itself."""
        self.in_flight.let_go(sequence)
        return []

    def take_back(self, sequence: Sequence) -> list[Command]:
        """Get the blocks of a sequence back that is cut off, whatever its stage."""
        self.in_flight.let_go(sequence)
        return []

    def release_leases(self, external_id: str) -> list[Command]:
        """Give up what is held for other workers under this external id: one command a lease."""
        return []

    def holders(self) -> list[list[int]]:
        """Return all block lists that hold references."""
        running = [sequence.blocks for sequence in self.open_sequences()]
        return [*running, *self.in_flight.holders(), self.cache.copy_sources()]

    def quarantined(self) -> list[int]:
        """Return the blocks that are known to be in quarantine."""
        return []

    @property
    def leases(self) -> int:
        """Offers whose blocks are held for other workers."""
        return 0

    @property
    def pulls(self) -> int:
        """Transfers into this worker's pool, and acknowledgements, that have not ended."""
        return 0

    # -- events ---------------------------------------------------------------------------------------------

    def on_generate(self, generate: Generate, now: float) -> list[Command]:
        """Accept a request or say why not."""
        try:
            self._check(generate)
        except RefusalError as refused:
            return [Send(refused.failure_of(generate.request_id))]
        self._arrivals += 1
        request = new_request(generate, self._arrivals, now)
        self.requests[request.id] = request
        commands = self.on_arrival(request)
        self.roster.add(request.sequences[0], Stage.WAITING)
        return commands

    def on_abort(self, request_id: str, choice: int | None) -> list[Command]:
        """End one choice, or all, without further output; a request that is gone already is no error."""
        request = self.requests.get(request_id)
        if request is None:
            return []
        commands: list[Command] = []
        for sequence in list(request.sequences):
            if choice is None or sequence.choices == [choice]:
                commands += self._cut_off(sequence)
            elif choice in sequence.choices:
                sequence.choices.remove(choice)
        return commands + self.finish_if_done(request)

    def on_abort_external(self, call_id: str, external_id: str) -> list[Command]:
        """End all requests with this external id, telling whoever waits for them, and release its leases."""
        matching = [r for r in self.requests.values() if r.generate.external_id == external_id]
        commands: list[Command] = []
        for request in matching:
            commands.append(Send(StepOutputs(outputs=aborted_outputs(request))))
            commands += self.on_abort(request.id, None)
        releases = self.release_leases(external_id)
        result = AbortResult(call_id=call_id, aborted=len(matching), released=len(releases))
        return [*commands, *releases, Send(result)]

    def fail(self, request: Request, kind: FailureKind, message: str) -> list[Command]:
        """End a request with an error; nothing of it is left behind."""
        commands: list[Command] = []
        for sequence in list(request.sequences):
            commands += self._cut_off(sequence)
        del self.requests[request.id]
        return [*commands, Send(RequestFailed(request_id=request.id, kind=kind, message=message))]

    def fail_all(self, kind: FailureKind, message: str) -> list[Command]:
        """End every request with the same error."""
        return [c for request in list(self.requests.values()) for c in self.fail(request, kind, message)]

    # -- a step ---------------------------------------------------------------------------------------------

    def schedule(self, now: float) -> tuple[Step, list[Command]]:
        """Decide the next step. When it is empty, only an event can change anything."""
        self._make_room_for_decoding()
        self._make_room_for_drafts()
        commands = self.admit(now)
        return self._step(now, list(self.roster.decoding)), commands

    def schedule_ahead(self, flying: Step, now: float) -> tuple[Step, list[Command]] | None:
        """Decide the step behind `flying`, whose draws are not known yet; None: they must be known first.

        Nobody is preempted: the blocks of a step in flight change their owner only when it has landed.
        """
        ending = rows_ending(flying, self.limits.max_model_len)
        if ending is None:
            return None
        going_on = [row for row in self.roster.decoding if id(row) not in ending]
        short = [row for row in going_on if self.cache.needs_room(row)]
        if len(short) > self.cache.pool.available:
            return None  # before any copy is planned, which nobody would execute
        for row in short:
            self.cache.make_room(row)
        commands = self.admit(now)
        decode = [row for row in self.roster.decoding if id(row) not in ending]
        return self._step(now, decode, inputs_in_flight(flying, decode)), commands

    def on_launch(self, step: Step) -> None:
        """Take note that a step is in flight; steps land in order."""
        self.in_flight.launch(step)

    def on_step(self, step: Step, draws: Iterable[Draw | None], now: float) -> list[Command]:
        """Learn a step's result: one draw for each choice of `completed`, then of `decode`.

        A draw is None where the logits allowed none: that request fails. What it has in `then` was computed
        in the same step, so that its KV is there.
        """
        self.counters.steps += 1
        self.in_flight.land(step)
        for sequence, _ in step.computed():
            self.cache.publish(sequence)
        return StepResults(self, now).take([*step.completed, *step.decode], iter(draws))

    def on_step_failed(self, step: Step, message: str) -> list[Command]:
        """End the requests of a step that was launched and raised, also those it only copied for."""
        copied = [sequence for sequence in self.open_sequences() if writes_into(step.copies, sequence)]
        self.in_flight.land(step)
        sequences = [*(sequence for sequence, _ in step.computed()), *copied]
        requests = dict.fromkeys(sequence.request for sequence in sequences)
        return [
            command
            for request in requests
            if self.requests.get(request.id) is request
            for command in self.fail(request, FailureKind.INTERNAL, message)
        ]

    def open_sequences(self) -> list[Sequence]:
        """Return the sequences of all requests that have not ended."""
        return [sequence for request in self.requests.values() for sequence in request.sequences]

    def is_stuck(self) -> bool:
        """Tell whether requests wait although no other one holds blocks."""
        return bool(self.roster.waiting) and self.roster.nothing_moves()

    def problems(self) -> list[str]:
        """Return every broken invariant of pool and lists; empty is sound."""
        pool = self.cache.pool.problems(self.holders(), self.quarantined())
        return pool + self.cache.problems() + self.roster.problems(self.open_sequences())

    # -- for the workers' schedulers and `results` -------------------------------------------------------

    def unplanned_budget(self) -> int:
        """Return what is left of the prefill budget beside the prompts that are being computed."""
        return self.prefill_budget() - sum(sequence.uncomputed for sequence in self.roster.prefilling)

    def has_seats(self, sequence: Sequence) -> bool:
        """Tell whether the decode batch has rows for all choices of a sequence."""
        return self.roster.batch_choices() + len(sequence.choices) <= self.limits.max_num_seqs

    def take_blocks(self, sequence: Sequence) -> bool:
        """Give a waiting sequence its blocks; the watermark falls when nothing else could ever move."""
        spare = 0 if self.roster.nothing_moves() else self._watermark
        return self.cache.take(sequence, spare=spare)

    def begin(self, sequence: Sequence, now: float) -> None:
        """Let a sequence that has its blocks be computed."""
        self.note_admission(sequence, now)
        if sequence.uncomputed > 1:
            self.roster.move(sequence, Stage.PREFILL)
            return
        if sequence.request.timeline.kv_ready_at is None:
            sequence.request.timeline.kv_ready_at = now
        self.roster.move(sequence, Stage.DECODE)

    def note_admission(self, sequence: Sequence, now: float) -> None:
        """Book a request's first admission: its queueing ends, the prefix cache was asked."""
        timeline = sequence.request.timeline
        if timeline.admitted_at is None:
            timeline.admitted_at = now
            timeline.cached_tokens = sequence.num_computed
            self.counters.count_admission(sequence.request, sequence.num_computed)

    def close(self, sequence: Sequence) -> None:
        """Strike a sequence off that has no blocks any more."""
        self.roster.move(sequence, Stage.ENDED)
        sequence.request.sequences.remove(sequence)

    def finish_if_done(self, request: Request) -> list[Command]:
        """Forget a request whose choices have all ended, and say so."""
        if request.sequences or request.id not in self.requests:
            return []
        del self.requests[request.id]
        return [Send(RequestDone(request_id=request.id, kv_transfer=request.offer))]

    # -- inside ---------------------------------------------------------------------------------------------

    def _check(self, generate: Generate) -> None:
        if self.is_draining:
            raise RefusalError(FailureKind.UNAVAILABLE, "this worker is shutting down")
        if generate.request_id in self.requests:
            raise RefusalError(FailureKind.BAD_REQUEST, "this request id is in use", "request_id")
        check_fits(generate, self.limits)
        self.check_handover(generate)
        waiting = len(self.roster.waiting)
        if waiting >= self.limits.max_waiting:
            raise RefusalError(FailureKind.OVERLOADED, f"{waiting} requests are waiting already")

    def _step(self, now: float, decode: list[Sequence], follows: list[int | None] | None = None) -> Step:
        chunks = self._plan_chunks(now)
        completed = [chunk.sequence for chunk in chunks if chunk.length == chunk.sequence.uncomputed]
        return Step(self.cache.take_copies(), chunks, decode, completed, follows)

    def _make_room_for_decoding(self) -> None:
        short = [sequence for sequence in self.roster.decoding if self.cache.needs_room(sequence)]
        # Oldest first: whoever is preempted is newer, so no copy planned here belongs to a victim.
        for sequence in sorted(short, key=by_age):
            while sequence.stage is Stage.DECODE and not self.cache.make_room(sequence):
                self._preempt(self.roster.newest_preemptible())

    def _make_room_for_drafts(self) -> None:
        """Reserve places for guesses and for the draft that guesses on; nobody is preempted for that."""
        most = self.limits.draft_tokens
        for sequence in self.roster.decoding if most else ():
            if len(sequence.choices) == 1:
                ahead = min(len(sequence.drafts) + most, self.limits.max_model_len - len(sequence.tokens))
                places = self.cache.reserve(sequence, ahead)
                del sequence.drafts[places:]

    def _preempt(self, sequence: Sequence) -> None:
        self.counters.preemptions += 1
        sequence.drafts.clear()
        sequence.request.forget_kv()
        self.cache.release(sequence)
        self.roster.move(sequence, Stage.WAITING)

    def _plan_chunks(self, now: float) -> list[Chunk]:
        budget = self.prefill_budget()
        chunks: list[Chunk] = []
        for sequence in self.roster.prefilling:
            if budget <= 0:
                break
            if not sequence.uncomputed:
                continue  # its first token is in flight
            chunks.append(Chunk(sequence, min(budget, sequence.uncomputed)))
            budget -= chunks[-1].length
            if sequence.request.timeline.prefill_started_at is None:
                sequence.request.timeline.prefill_started_at = now
        return chunks

    def _cut_off(self, sequence: Sequence) -> list[Command]:
        commands = self.take_back(sequence)
        self.close(sequence)
        return commands
