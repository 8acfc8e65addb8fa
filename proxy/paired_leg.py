"""Both legs of an SGLang pair, asked at once: decode's answer is relayed once prefill's is known to be good.

To its owner it is decode's leg. What becomes of prefill's is told apart, as the partner's. Whichever fails
ends the other, since neither can go on without it. Both are sent once: a room that is used again, by a
request that goes out a second time, can end both workers' schedulers.
"""

from typing import Protocol

from .leg import LegOwner, PrefillLeg, fault_of
from .prefill_answer import PrefillAnswer, read_prefill_answer, was_aborted
from .relay_leg import HELD_ANSWER_BYTES, RelayLeg
from .routing.commands import Failure, Fault
from .upstream import Pieces, Pool


class PairOwner(LegOwner, Protocol):
    """Who a pair reports to."""

    def partner_answered(self, answer: PrefillAnswer) -> None:
        """Prefill is done: decode has the KV."""
        ...

    def partner_rejected(self, partner: PrefillLeg) -> None:
        """Prefill's final answer finds fault with the request; nothing of decode's will be shown."""
        ...

    def partner_failed(self, partner: PrefillLeg, failure: Failure) -> None:
        """Prefill failed; nothing of decode's will be shown."""
        ...


class _Partner(PrefillLeg):
    """Prefill's leg."""

    __slots__ = ()
    sent_once = True


class PairedLeg(RelayLeg):
    """Decode's leg and its partner. It is the partner's owner."""

    sent_once = True
    __slots__ = ("_holding", "_pair_owner", "_partner", "_partner_done")

    def __init__(
        self,
        owner: PairOwner,
        pool: Pool,
        pieces: Pieces,
        prefill_pool: Pool,
        prefill_pieces: Pieces,
    ) -> None:
        super().__init__(owner, pool, pieces)
        self._pair_owner = owner
        self._partner = _Partner(self, prefill_pool, prefill_pieces)
        self._partner_done = False
        self._holding = False

    def start(self) -> None:
        """Send both."""
        self._partner.start()
        super().start()

    def cancel(self) -> None:
        """Drop both."""
        self._partner.cancel()
        super().cancel()

    def unreachable(self, detail: str) -> None:
        """Prefill would wait in vain."""
        self._partner.cancel()
        super().unreachable(detail)

    def fail(self, failure: Failure) -> None:
        """Give up; what took too long is prefill's doing until it has answered."""
        if failure.fault is Fault.TIMEOUT and not self._partner_done:
            self.leg_failed(failure)
        else:
            super().fail(failure)

    def _decide(self) -> None:
        assert self.head is not None
        if fault_of(self.head.status) is not None or self.head.status >= 400:
            self._partner.cancel()
        elif not self._partner_done:
            self._holding = True
            if len(self._waiting) > HELD_ANSWER_BYTES:
                self.pause()
            return
        super()._decide()

    # --- told by the partner

    def now(self) -> float:
        """Return the time on the loop's clock."""
        return self.owner.now()

    def leg_answered(self) -> None:
        """Prefill is done, unless its answer says otherwise: show what waits."""
        body = self._partner.body
        try:
            answer, aborted = read_prefill_answer(body), was_aborted(body)
        except (ValueError, RecursionError) as error:
            self.leg_failed(Failure(Fault.MALFORMED, f"not a completion: {error}"))
            return
        if aborted:
            self.leg_failed(Failure(Fault.ERROR, "prefill was aborted"))
            return
        self._partner_done = True
        self._pair_owner.partner_answered(answer)
        if self._holding:
            self.resume()
            super()._decide()

    def leg_rejected(self) -> None:
        """Nothing will come of decode's."""
        super().cancel()
        self._pair_owner.partner_rejected(self._partner)

    def leg_failed(self, failure: Failure) -> None:
        """Nothing will come of decode's."""
        self.cancel()
        self._pair_owner.partner_failed(self._partner, failure)

    def leg_resent(self) -> None:
        """A stale connection."""
        self.owner.leg_resent()

    def leg_ended(self) -> None:
        """Not told: a prefill leg relays nothing."""
        raise AssertionError("a prefill leg relays nothing")

    def leg_broken(self, failure: Failure) -> None:
        """Not told either."""
        raise AssertionError("a prefill leg relays nothing")
