"""The prefill worker's scheduler: prompts first, then a lease on their blocks. No I/O.

The life of a request with `do_remote_decode`:

1. It waits, is admitted and prefills like any other; the whole token budget of a step goes to prompts.
2. The last chunk gives one token. It ends the request, whatever `max_tokens` says: decoding is elsewhere.
3. The references to the prompt's blocks pass from the request to a lease with the request's id: `Offer`.
4. `RequestDone` carries the offer as `kv_transfer_params`, which a proxy hands to a decode worker.
5. `LeaseEnded` gives the references back; full blocks stay in the prefix cache.

An abort before 3 frees the blocks at once; after 3 it asks the transfer service to release the lease, which
takes effect when no decode worker can be reading any more.
"""

import msgspec

from ..engine.intake import Limits, bad_request
from ..engine.kv_cache import KvCache
from ..engine.messages import Generate
from ..engine.scheduler import Scheduler
from ..engine.sequence import Request, Sequence
from ..engine.step import Command, ReleaseLease
from ..kvtransfer.digest import token_digest
from ..kvtransfer.params import KvTransferParams, PrefillReport
from ..kvtransfer.service import LeaseEnd, LeaseEnded, Offer, TransferEvent
from .leases import HeldBlocks, LeaseTable


class OfferedBy(msgspec.Struct, frozen=True, kw_only=True):
    """Who offers blocks, as decode workers must address it."""

    worker: str
    """Name in reports."""
    incarnation: str
    host: str
    port: int
    """Of the KV control channel."""


class PrefillScheduler(Scheduler):
    """Computes prompts and holds their blocks for decode workers; serves whole requests beside."""

    def __init__(self, limits: Limits, cache: KvCache, offered_by: OfferedBy) -> None:
        super().__init__(limits, cache)
        self._offered_by = offered_by
        self._leases = LeaseTable()

    def check_handover(self, generate: Generate) -> None:
        """Refuse to pull, for a prefill worker only offers, and a request id that still names a lease."""
        if generate.request_id in self._leases:
            raise bad_request("request_id", "this request id names a lease that has not ended")
        if generate.kv_transfer is not None and generate.kv_transfer.do_remote_prefill:
            raise bad_request(
                "kv_transfer_params.do_remote_prefill",
                "this is a prefill worker: it does not take KV from another one",
            )

    def on_arrival(self, request: Request) -> list[Command]:
        """Cut a request to hand over down to one choice of one token."""
        if _is_handed_over(request):
            sampling = msgspec.structs.replace(request.generate.sampling, max_tokens=1)
            request.generate = msgspec.structs.replace(request.generate, sampling=sampling, n=1)
            request.sequences[0].choices[:] = [0]
        return []

    def settle(self, sequence: Sequence, now: float) -> list[Command]:
        """Pass the blocks of a prompt that is handed over to a lease."""
        request = sequence.request
        if not _is_handed_over(request):
            return super().settle(sequence, now)
        blocks = self.cache.give_up(sequence)
        self._leases.hold(HeldBlocks(request.id, request.generate.external_id, blocks))
        request.offer = self._offer_of(request, blocks, now)
        return [Offer(lease_id=request.id, block_ids=tuple(blocks))]

    def on_abort(self, request_id: str, choice: int | None) -> list[Command]:
        """End the request; if it is done already, the answer did not reach anyone: release its lease."""
        commands = super().on_abort(request_id, choice)
        return [*commands, ReleaseLease(request_id)] if request_id in self._leases else commands

    def release_leases(self, external_id: str) -> list[Command]:
        """Ask for the end of the leases of this external id."""
        return [ReleaseLease(lease_id) for lease_id in self._leases.of(external_id)]

    def on_transfer_event(self, event: TransferEvent, now: float) -> list[Command]:
        """Take the blocks of an ended lease back."""
        if isinstance(event, LeaseEnded):
            self.cache.pool.release(self._leases.end(event.lease_id))
            self.counters.leases_expired += event.how is LeaseEnd.EXPIRED
        return []

    def holders(self) -> list[list[int]]:
        """Return all block lists that hold references, those of the leases included."""
        return [*super().holders(), *self._leases.holders()]

    @property
    def leases(self) -> int:
        """Leases that have not ended."""
        return len(self._leases)

    def _offer_of(self, request: Request, blocks: list[int], now: float) -> KvTransferParams:
        timeline = request.timeline
        prompt = request.generate.prompt_token_ids
        computing_since = timeline.prefill_started_at or timeline.admitted_at or timeline.arrived_at
        return KvTransferParams(
            do_remote_prefill=True,
            remote_engine_id=self._offered_by.incarnation,
            remote_request_id=request.id,
            remote_block_ids=[blocks],
            remote_host=self._offered_by.host,
            remote_port=self._offered_by.port,
            remote_num_tokens=len(prompt),
            remote_prefill_cached_tokens=timeline.cached_tokens,
            baton_token_digest=token_digest(prompt),
            baton_prefill=PrefillReport(
                worker=self._offered_by.worker,
                queue_s=(timeline.admitted_at or timeline.arrived_at) - timeline.arrived_at,
                prefill_s=now - computing_since,
            ),
        )


def _is_handed_over(request: Request) -> bool:
    params = request.generate.kv_transfer
    return params is not None and params.do_remote_decode
