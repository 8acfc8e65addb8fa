"""Which workers served a session last, so that its next request can go where it left off.

The prefix index knows what a prompt's bytes tell. What they do not tell is in here: the answer that a decode
worker generated and still holds, images, prompts too short for a chunk. A session is forgotten after
`max_age_s` without a request, or as the least recently used of more than `most`. A worker's restart ends what
it is remembered for. No clock.
"""

from collections import OrderedDict
from dataclasses import dataclass
from itertools import count

from xxhash import xxh3_64_intdigest

from .fleet import Worker
from .observer import Leg
from .policy import Decision
from .view import RequestView


@dataclass(slots=True)
class _Stay:
    """Where a session was served last, and which life of these workers that was."""

    used_at: float
    prefill: Worker | None
    decode: Worker
    lives: tuple[int | None, int | None]


class Sessions:
    """The sessions of one memory, known by a hash of their model and name."""

    def __init__(self, *, most: int, max_age_s: float) -> None:
        self._most = most
        self._max_age_s = max_age_s
        self._stays: OrderedDict[int, _Stay] = OrderedDict()
        self._lives: dict[str, int] = {}
        """Of workers that were restarted at least once; no two are alike."""
        self._next_life = count()

    def __len__(self) -> int:
        """Sessions that are remembered."""
        return len(self._stays)

    def last(self, request: RequestView, leg: Leg, now: float) -> str | None:
        """Return the worker that served this leg of the request's session last; None without one."""
        if not request.session:
            return None
        stay = self._stays.get(_key(request))
        if stay is None or now - stay.used_at > self._max_age_s:
            return None
        worker, life = (stay.prefill, stay.lives[0]) if leg is Leg.PREFILL else (stay.decode, stay.lives[1])
        return worker.name if worker is not None and self._lives.get(worker.name) == life else None

    def dispatched(self, request: RequestView, decision: Decision, now: float) -> None:
        """The request is on its way; a session that decode serves alone keeps its prefill worker."""
        if not request.session:
            return
        key = _key(request)
        before = self._stays.pop(key, None)
        prefill = decision.prefill
        if prefill is None and before is not None:
            prefill = before.prefill
        lives = (
            None if prefill is None else self._lives.get(prefill.name),
            self._lives.get(decision.decode.name),
        )
        self._stays[key] = _Stay(now, prefill, decision.decode, lives)
        if len(self._stays) > self._most:
            self._stays.popitem(last=False)

    def restarted(self, worker: Worker) -> None:
        """It holds nothing of any session any more."""
        self._lives[worker.name] = next(self._next_life)

    def removed(self, worker: Worker) -> None:
        """It will not come back: under its name there is none, or another."""
        self._lives.pop(worker.name, None)


def _key(request: RequestView) -> int:
    return xxh3_64_intdigest(request.session, xxh3_64_intdigest(request.model.encode()))
