"""The loop tells everything that happens, survives a step that raises, and ends only when it may."""

import pytest

from baton.engine.loop import EngineFailedError
from baton.engine.messages import (
    CheckIntegrity,
    ConnectPeer,
    EngineStats,
    FailureKind,
    FirstToken,
    IntegrityReport,
    PeerResult,
    RequestDone,
    Shutdown,
    StepOutputs,
)
from baton.kvtransfer.service import LeaseEnd
from support.fake_model import tokens_after
from support.fake_transfer import FakeNetwork
from support.fake_worker import FakeWorker, hand_over

PROMPT = [5, 9, 2, 7, 7, 1, 3]


def test_first_token_comes_before_the_outputs_and_done_after_them() -> None:
    worker = FakeWorker()
    worker.submit("r", PROMPT, 1)
    worker.run()

    kinds = [type(message) for message in worker.inbox.sent if not isinstance(message, EngineStats)]
    assert kinds == [FirstToken, StepOutputs, RequestDone]


def test_the_offer_is_made_before_anyone_hears_of_it() -> None:
    worker = FakeWorker("prefill")
    seen: list[bool] = []
    offer_now, send_now = worker.service.offer, worker.inbox.send
    worker.service.offer = lambda offer: (seen.append(True), offer_now(offer))[1]  # type: ignore[method-assign]
    worker.inbox.send = lambda m: (isinstance(m, RequestDone) and seen.append(False), send_now(m))[1]  # type: ignore[method-assign]
    hand_over(worker, "r", PROMPT)

    assert seen == [True, False]


def test_a_step_that_raises_fails_its_requests_and_the_next_ones_are_served() -> None:
    worker = FakeWorker()
    worker.model.broken_by = 60
    worker.submit("bad", [60, 1, 2], 3)
    worker.run()
    worker.submit("good", PROMPT, 3)
    worker.run()

    assert worker.failure("bad").kind is FailureKind.INTERNAL
    assert "RuntimeError: the model broke" in worker.failure("bad").message
    assert worker.tokens_of("good") == tokens_after(PROMPT, 3)
    assert worker.in_use == 0


def test_steps_that_keep_raising_end_the_engine() -> None:
    worker = FakeWorker()
    worker.model.broken_by = 60
    for name in "ab":
        worker.submit(name, [60, 1], 3)
        worker.run()
    worker.submit("c", [60, 1], 3)

    with pytest.raises(EngineFailedError, match="3 steps in a row failed, the last one: the model broke"):
        worker.run()


def test_logits_that_allow_no_token_fail_that_request_alone() -> None:
    worker = FakeWorker()
    worker.model.blinded_by = 60
    worker.submit("good", PROMPT, 6)
    worker.submit("bad", [60, 1, 2], 6, n=2)
    worker.run()

    assert worker.failure("bad").kind is FailureKind.INTERNAL
    assert worker.tokens_of("good") == tokens_after(PROMPT, 6)
    assert worker.in_use == 0


def test_the_integrity_report_counts_what_is_held() -> None:
    worker = FakeWorker("prefill")
    hand_over(worker, "r", PROMPT)
    worker.submit("s", [1] * 5, 20)
    worker.turn()
    worker.tell(CheckIntegrity(call_id="c"))
    worker.turn()

    [report] = [m for m in worker.inbox.sent if isinstance(m, IntegrityReport)]
    assert (report.call_id, report.problems, report.leases, report.requests) == ("c", [], 1, 1)
    blocks = report.blocks
    assert blocks.free + blocks.cached + blocks.in_use + blocks.quarantined == blocks.total == 32


def test_the_integrity_report_names_a_leak() -> None:
    worker = FakeWorker()
    [leaked] = worker.pool.allocate(1)
    worker.tell(CheckIntegrity(call_id="c"))
    worker.loop.turn()

    [report] = [m for m in worker.inbox.sent if isinstance(m, IntegrityReport)]
    assert report.problems == [f"block {leaked} has 1 references but 0 holders"]


def test_a_leak_is_logged_when_the_engine_comes_to_rest(caplog: pytest.LogCaptureFixture) -> None:
    worker = FakeWorker()
    worker.submit("r", PROMPT, 1)
    worker.loop.turn()
    [leaked] = worker.pool.allocate(1)
    worker.loop.settle_down()
    worker.loop.settle_down()

    assert caplog.messages == [f"self-check: block {leaked} has 1 references but 0 holders"]


def test_statistics_go_out_once_an_interval_and_only_when_they_changed() -> None:
    worker = FakeWorker()
    for _ in range(5):
        worker.turn()
    assert len([m for m in worker.inbox.sent if isinstance(m, EngineStats)]) == 1

    worker.submit("r", PROMPT, 3)
    worker.run()
    last = [m for m in worker.inbox.sent if isinstance(m, EngineStats)][-1]
    assert (last.steps, last.generated_tokens, last.prompt_tokens, last.running) == (3, 3, 7, 0)
    assert last.blocks.cached == 2


def test_peers_are_shaken_hands_with_on_request() -> None:
    network = FakeNetwork()
    prefill = FakeWorker("prefill", network=network)
    worker = FakeWorker("decode", network=network)
    host, port = prefill.service.address
    worker.tell(ConnectPeer(call_id="a", host=host, port=port))
    worker.tell(ConnectPeer(call_id="b", host=host, port=99))
    worker.run()

    assert PeerResult(call_id="a", incarnation="prefill-engine", error=None) in worker.inbox.sent
    assert PeerResult(call_id="b", incarnation=None, error="nobody at 127.0.0.1:99") in worker.inbox.sent


def test_a_shutdown_lets_what_runs_finish_and_refuses_the_rest() -> None:
    worker = FakeWorker()
    worker.submit("r", PROMPT, 5)
    worker.turn()
    worker.tell(Shutdown(grace_s=60.0))
    worker.submit("late", PROMPT, 5)
    worker.loop.run()

    assert worker.tokens_of("r") == tokens_after(PROMPT, 5)
    assert worker.failure("late").kind is FailureKind.UNAVAILABLE


def test_a_shutdown_waits_for_leases() -> None:
    worker = FakeWorker("prefill")
    hand_over(worker, "r", PROMPT)
    worker.tell(Shutdown(grace_s=60.0))
    worker.turn()
    assert not worker.loop.is_over()

    worker.service.end_lease("r", LeaseEnd.ACKNOWLEDGED)
    worker.turn()
    assert worker.loop.is_over()


def test_a_shutdown_waits_no_longer_than_its_grace() -> None:
    worker = FakeWorker()
    worker.submit("r", PROMPT, 100)
    worker.turn()
    worker.tell(Shutdown(grace_s=2.5))
    for _ in range(3):
        worker.turn()
    assert not worker.loop.is_over()
    worker.turn()
    worker.loop.run()

    assert worker.failure("r").kind is FailureKind.UNAVAILABLE
    assert worker.in_use == 0


def test_an_idle_loop_sleeps_and_looks_up_once_a_second() -> None:
    class DyingParentError(Exception):
        pass

    worker = FakeWorker()
    checks: list[float] = []

    def check_parent() -> None:
        checks.append(worker.clock.now)
        if len(checks) == 3:
            raise DyingParentError

    def wait(timeout_s: float) -> None:
        worker.clock.now += timeout_s

    worker.loop._check_parent = check_parent
    worker.inbox.wait = wait  # type: ignore[method-assign]
    with pytest.raises(DyingParentError):
        worker.loop.run()
    assert checks == [101.0, 102.0, 103.0]
