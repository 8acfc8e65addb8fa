"""An exchange that may be served by an SGLang pair, both of whose legs are asked at once."""

from .exchange import Exchange
from .leg import PrefillLeg
from .notes import note_prefill
from .paired_leg import PairedLeg
from .prefill_answer import PrefillAnswer
from .rendezvous import meeting
from .routing.commands import Failure, SendBoth


class PairExchange(Exchange):
    """One completion being served."""

    __slots__ = ()

    # --- told by the leg of a pair, of prefill

    def partner_answered(self, answer: PrefillAnswer) -> None:
        """Prefill is done, and decode was asked already."""
        now, life = self.now(), self._living()
        self._hub.counters.prefill_s.observe(now - self._leg_started_at)
        note_prefill(self._hub, life.request, answer, now)
        self._set_due(self._hub.config.timeouts.first_byte_s)
        self._run(life.partner_answered())

    def partner_rejected(self, partner: PrefillLeg) -> None:
        """Prefill finds fault with the request."""
        self._leg = partner
        self.leg_rejected()

    def partner_failed(self, partner: PrefillLeg, failure: Failure) -> None:
        """Prefill failed."""
        self._leg = partner
        self.leg_failed(failure)

    # --- sending

    def _send_both(self, command: SendBoth) -> None:
        self._prefill, self._decode = command.prefill, command.decode
        pools = self._hub.pools[command.prefill.name], self._hub.pools[command.decode.name]
        prefill, decode = meeting(command, self._sendable(), self._head, pools, self._request.http_1_0)
        leg = PairedLeg(self, pools[1], decode, pools[0], prefill)
        self._start(leg, self._hub.config.timeouts.prefill_s)
