"""A rank that is done before the others asks them now and then, not all the time."""

from typing import cast

from baton.engine.loop import RANKS_PAUSE_S, EngineLoop
from baton.engine.messages import Shutdown
from baton.engine.ranks.errors import GroupFailedError
from baton.engine.ranks.lockstep import Wish, as_numbers
from baton.engine.ranks.phased_model import PhasedModel
from baton.engine.ranks.runner import LockstepRunner
from support.fake_worker import FakeWorker


class Line:
    """Nobody rings."""

    rung_wave: int | None = None

    def ring(self, wave: int) -> None:
        pass


class TwoRanks:
    """The other rank has no work, and wants to end after so many agreements."""

    rank, size = 0, 2

    def __init__(self, agreements: int) -> None:
        self.watch = Line()
        self._left = agreements

    def largest(self, numbers: list[int]) -> list[int]:
        self._left -= 1
        other = Wish(prompt_tokens=0, decode_rows=0, wants_to_end=self._left < 0, leaving=(False, False))
        return [max(pair) for pair in zip(numbers, as_numbers(other), strict=True)]

    def check(self) -> None:
        pass

    def failure(self, error: Exception | None) -> GroupFailedError:
        return GroupFailedError(str(error))


class UncountedModel:
    """Takes what is agreed on; no step is computed."""

    decode_rows = 0
    prefill_in_halves = decode_in_halves = False


def test_between_two_questions_whether_all_want_to_end_it_sleeps() -> None:
    worker = FakeWorker()
    model = cast("PhasedModel", UncountedModel())
    ranks = LockstepRunner(worker.runner, model, TwoRanks(10), bucket_of=int, idle_steps=4)
    worker.tell(Shutdown(grace_s=60.0))
    loop = EngineLoop(
        scheduler=worker.scheduler,
        runner=ranks,
        service=worker.service,
        inbox=worker.inbox,
        clock=worker.clock,
        stats_interval_s=1.0,
        check_parent=lambda: None,
        publish=lambda: None,
        pace=ranks,
    )
    loop.run()

    assert worker.inbox.waits.count(RANKS_PAUSE_S) == 11
