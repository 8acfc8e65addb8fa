"""This rank's membership of its group: the link in use, the way to the next one, and the end."""

import time
from collections.abc import Callable

import torch
from msgspec.structs import replace

from ..config import RanksConfig
from .errors import GroupFailedError
from .interface import bind_gloo, own_address
from .link import Link, open_store
from .newcomer import Admission
from .watch import Watch

NEXT = "baton/next"
"""Where those who stay meet when the group changes."""
NAMING_S = 2.0
"""How long the news of which rank has ended may lag behind the error of a transfer."""
MEET_S = 30.0
"""How long the ranks of a group that changes may take to meet; they go on serving meanwhile."""
LOOK_S = 0.02


class RankGroup:
    """The joined group."""

    def __init__(
        self,
        config: RanksConfig,
        device: torch.device,
        on_change: Callable[[], None],
        admission: Admission | None = None,
    ) -> None:
        """Join; returns when all ranks have. Raises `GroupFailedError` after `timeout_s`.

        admission  of a newcomer, which has met the others then, but takes part only once it enters
        """
        self._device = device
        self.on_change = on_change
        self._admission = admission
        self._has_parted = False
        try:
            bind_gloo(config.host, config.port)
        except OSError as error:
            raise GroupFailedError(f"there is no way to rank 0 at {config.host}: {error}") from error
        self.link = Link(config, device, on_change)

    @property
    def rank(self) -> int:
        """This rank."""
        return self.link.rank

    @property
    def size(self) -> int:
        """Ranks in the group."""
        return self.link.size

    @property
    def identity(self) -> str:
        """The same on all ranks, however they change, and on no other group's."""
        return self.link.identity

    @property
    def watch(self) -> Watch:
        """The line to the other ranks."""
        return self.link.watch

    def enter(self) -> None:
        """Return when the others take this rank into account. Raises `NotAdmittedError`."""
        if self._admission is not None:
            self._admission.enter(self.link)
            self._admission = None

    def largest(self, numbers: list[int]) -> list[int]:
        """Return the element-wise maximum over all ranks. Raises `GroupFailedError`."""
        try:
            return self.link.largest(numbers)
        except RuntimeError as error:
            raise self.failure(error) from error

    def meet(
        self,
        ranks: RanksConfig,
        attempt: int,
        is_wanted: Callable[[], bool],
        invite: Callable[[RanksConfig], None],
    ) -> Link:
        """Meet the ranks of the group to be, on another thread, while this one is in use.

        attempt    the same on all ranks, and new
        is_wanted  whether there is still a point in it
        invite     told the place, on rank 0, once it is open
        Raises `GroupFailedError`.
        """
        key = f"{NEXT}/{attempt}"
        soon = replace(ranks, timeout_s=min(MEET_S, ranks.timeout_s))
        try:
            if ranks.rank == 0:
                place = replace(soon, host=own_address(self.link.host, self.link.port), port=0)
                store = open_store(place)
                self.link.store.set(key, f"{place.host} {store.port}")
                invite(replace(ranks, host=place.host, port=store.port))
            else:
                host, _, port = self._next_place(key, is_wanted).partition(" ")
                place = replace(soon, host=host, port=int(port))
                store = open_store(place)
        except (RuntimeError, OSError) as error:
            raise GroupFailedError(f"rank {self.rank} found no place to meet anew: {error}") from error
        return Link(place, self._device, self.on_change, store=store, identity=self.identity)

    def _next_place(self, key: str, is_wanted: Callable[[], bool]) -> str:
        deadline = time.monotonic() + MEET_S
        while not self.link.store.check([key]):
            if not is_wanted() or time.monotonic() > deadline:
                raise OSError("rank 0 of the group to be has named none")
            time.sleep(LOOK_S)
        return str(self.link.store.get(key).decode())

    def change_to(self, link: Link | None) -> None:
        """Give this link up for another, at the same time as all ranks; none: leave."""
        self.link.close()
        if link is None:
            self._has_parted = True
        else:
            self.link = link

    def check(self) -> None:
        """Raise `GroupFailedError` when a rank has ended."""
        if not self._has_parted and self.watch.lost_rank is not None:
            raise self.failure(None)

    def failure(self, error: Exception | None) -> GroupFailedError:
        """Return the error that names the rank that has ended, or else what went wrong here."""
        lost = self.watch.wait_for_loss(NAMING_S)
        if lost is not None:
            return GroupFailedError(f"rank {lost} of {self.size} has ended, and its group with it")
        return GroupFailedError(f"rank {self.rank} of {self.size} failed in a step of its group: {error}")

    def close(self) -> None:
        """Leave; whoever has not left yet fails."""
        if not self._has_parted:
            self.link.close()
