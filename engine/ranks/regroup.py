"""Changing the group while it serves: no request of those who stay is lost, no KV is moved.

1. A rank that was told to leave drains, then wants to leave; a newcomer calls at rank 0's door. Either way
   all ranks go on with their steps as before.
2. Beside the steps, on a thread of its own, each rank of the group to be meets the others by a new link and
   reads the experts that it will own from the checkpoint. A newcomer loads its share.
3. Once all are ready, between the same two steps, a message goes round the new link. If it came through
   everywhere, those who stay put their new experts in place and go on by the new link; if not, or if anything
   failed before, all go on as they were.

Experts are placed by load anew from there.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from ...kernels.moe.experts import ExpertWeights
from ..balance.packing import Cluster
from ..config import RanksConfig, WorkerConfig
from ..messages import MeetingPlace, RankStanding
from ..models.config import ModelConfig
from ..models.loading import load_experts
from ..models.mlp import first_replicas
from .door import Caller, Door
from .group import RankGroup
from .link import Link
from .membership import Change, Outcome
from .messages import Enter, Invitation, Welcome
from .moe import make_backend, num_slots, owned_slots
from .newcomer import DOOR_PORT, terms_of
from .phased_model import PhasedModel
from .rebalance import Rebalancer

logger = logging.getLogger(__name__)

ClusterOf = Callable[[RanksConfig, ModelConfig], Cluster]
"""Where experts can be placed, of these ranks and this model."""


def successor_of(ranks: RanksConfig, change: Change) -> RanksConfig | None:
    """Return a rank's place in the changed group; None when it leaves itself."""
    stay = [rank for rank in range(ranks.size) if rank not in change.leaving]
    if ranks.rank not in stay:
        return None
    return replace(ranks, rank=stay.index(ranks.rank), size=len(stay) + change.joins)


@dataclass(frozen=True, slots=True)
class Successor:
    """What a rank changes to."""

    ranks: RanksConfig
    link: Link
    experts: Sequence[ExpertWeights]
    """By layer."""


class Preparation:
    """Makes a successor ready on a thread of its own."""

    def __init__(
        self, make: Callable[[Callable[[], bool]], Successor | None], on_change: Callable[[], None]
    ) -> None:
        """Begin. `make` gets a function that tells whether the result is still wanted."""
        self.is_ready = False
        self.trouble: str | None = None
        self._make = make
        self._on_change = on_change
        self._made: Successor | None = None
        self._is_wanted = True
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name="successor", daemon=True).start()

    def take(self) -> Successor | None:
        """Return what is ready; none for a rank that leaves."""
        assert self.is_ready
        return self._made

    def drop(self) -> None:
        """Want it no longer."""
        with self._lock:
            self._is_wanted = False
            self._discard()

    def _run(self) -> None:
        made, trouble = None, None
        try:
            made = self._make(lambda: self._is_wanted)
        except Exception as error:
            logger.exception("this rank cannot change its group")
            trouble = f"{type(error).__name__}: {error}"
        with self._lock:
            self._made, self.trouble, self.is_ready = made, trouble, trouble is None
            if not self._is_wanted:
                self._discard()
        self._on_change()

    def _discard(self) -> None:
        if self._made is not None:
            self._made.link.close()
            self._made = None


class Regrouping:
    """One rank's part in changes of its group."""

    def __init__(
        self,
        config: WorkerConfig,
        group: RankGroup,
        model: PhasedModel,
        place: ClusterOf,
        on_change: Callable[[], None],
    ) -> None:
        self._config = config
        self._group = group
        self._model = model
        self._place = place
        self._on_change = on_change
        self._terms = terms_of(config)
        self._preparation: Preparation | None = None
        self._caller: Caller | None = None
        """Whom the change under way lets in."""
        self._change = Change()
        self._give_up_at = 0.0
        self._door = self._open_door()

    @property
    def has_newcomer(self) -> bool:
        """Whether someone wants to join by this rank."""
        return self._door is not None and self._door.caller is not None

    @property
    def standing(self) -> RankStanding:
        """This rank's place now, and where newcomers ask."""
        link = self._group.link
        meeting = MeetingPlace(host=link.host, port=link.port)
        return RankStanding(rank=link.rank, size=link.size, meeting=meeting)

    def get_ready(self, change: Change, attempt: int) -> None:
        """Begin to make ready for a change, and drop what was begun for another."""
        self._drop()
        ranks = successor_of(self._ranks, change)
        self._change = change
        self._give_up_at = time.monotonic() + self._ranks.timeout_s
        caller = self._caller = self._door.caller if self._door is not None and change.joins else None

        def invite(there: RanksConfig) -> None:
            if caller is not None:
                caller.say(Invitation(ranks=replace(there, rank=there.size - 1)))

        def make(is_wanted: Callable[[], bool]) -> Successor | None:
            if ranks is None:
                return None
            link = self._group.meet(ranks, attempt, is_wanted, invite)
            try:
                return Successor(ranks, link, self._read(ranks))
            except BaseException:
                link.close()
                raise

        self._preparation = Preparation(make, self._on_change)

    def is_ready(self) -> bool:
        """Tell whether this rank could change now."""
        if self._preparation is None or not self._preparation.is_ready:
            return False
        return self._caller is None or self._caller.has_loaded

    def trouble(self) -> str | None:
        """Say why the change under way cannot be, if it cannot."""
        if self._preparation is None:
            return None
        if self._caller is not None and (self._door is None or self._door.caller is not self._caller):
            return "the newcomer has gone"
        if self._change.joins and self._group.rank == 0 and self._caller is None:
            return "the newcomer has gone"
        if time.monotonic() > self._give_up_at:
            return f"not all were ready within {self._ranks.timeout_s:g} s"
        return self._preparation.trouble

    def stay(self) -> None:
        """Go on as before: what was made ready is dropped, a newcomer is sent away."""
        if self._caller is not None:
            self._caller.refuse("the ranks go on as they were: one could not get ready; its log says why")
        self._drop()

    def change(self) -> Outcome:
        """Change at the same time as all ranks, if the new link holds."""
        assert self._preparation is not None
        successor = self._preparation.take()
        caller = self._caller
        if caller is not None:
            caller.say(Enter())
        fails = successor is not None and not successor.link.prove(self._ranks.timeout_s)
        if self._group.largest([int(fails)]) != [0]:
            self.stay()
            return Outcome.STAYS
        self._preparation = self._caller = None
        self._group.change_to(None if successor is None else successor.link)
        if caller is not None:
            caller.say(Welcome())
        if self._door is not None:
            self._door.close()
            self._door = None
        if successor is None:
            return Outcome.LEFT
        self._take(successor)
        self._door = self._open_door()
        return Outcome.GOES_ON

    @property
    def _ranks(self) -> RanksConfig:
        assert self._config.ranks is not None
        return self._config.ranks

    def _drop(self) -> None:
        if self._preparation is not None:
            self._preparation.drop()
        self._preparation = self._caller = None

    def _read(self, ranks: RanksConfig) -> list[ExpertWeights]:
        return load_experts(
            Path(self._config.model),
            device=self._config.device,
            dtype=self._config.dtype,
            experts=owned_slots(ranks, self._model.config.moe.num_experts),
            keep_fp8=self._config.keep_fp8,
        )

    def _take(self, successor: Successor) -> None:
        ranks, layers, shape = successor.ranks, self._model.moe_layers, self._model.config
        self._config = replace(self._config, ranks=ranks)
        slots = num_slots(ranks, shape.moe.num_experts)
        for layer, own in zip(layers, successor.experts, strict=True):
            layer.take_experts(own, first_replicas(shape.moe, slots, own.owned, own.gate_up.device))
        collectives = self._group.link.collectives
        self._model.go_on_with(
            make_backend(self._config, shape, collectives),
            Rebalancer(layers, collectives, self._place(ranks, shape), ranks),
        )

    def _open_door(self) -> Door | None:
        if self._group.rank != 0:
            return None
        door = Door(self._group.link.host, self._terms, self._on_change)
        self._group.link.store.set(DOOR_PORT, str(door.port))
        return door
