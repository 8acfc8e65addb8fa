"""A request's life as transcripts: events in, commands out, and no work or KV left behind at any end."""

import pytest

from baton.proxy.routing.commands import (
    NOTHING,
    Abort,
    Command,
    Failure,
    Fault,
    Probe,
    Refuse,
    Relay,
    RelayLastAnswer,
    SendDecode,
    SendPrefill,
    TellBroken,
)
from baton.proxy.routing.fleet import Fleet, Kind, KvAddress, Role, Sighting, Worker, WorkerState
from baton.proxy.routing.ledger import HandoverEvent
from baton.proxy.routing.life import RequestLife
from baton.proxy.routing.round_robin import RoundRobin
from baton.proxy.routing.router import Outcome, Router
from baton.proxy.routing.tenants import Terms
from baton.proxy.routing.ticket import Ticket
from baton.proxy.routing.verdict import RefusalReason, Start
from baton.proxy.routing.verdict import Refuse as TurnAway
from baton.proxy.routing.view import RequestView

LOST = Failure(Fault.LOST, "reset")
REFUSED = Failure(Fault.UNREACHABLE, "connection refused")
BUSY = Failure(Fault.BUSY, "status 429")
ERROR = Failure(Fault.ERROR, "status 500")
TIMEOUT = Failure(Fault.TIMEOUT, "too long")


def ready(fleet: Fleet, now: float = 0.0) -> Fleet:
    for worker in fleet.workers.values():
        kv = KvAddress(host="h", port=1)
        seen = Sighting(ready=True, models=frozenset({"m"}), incarnation=f"{worker.name}-1", kv=kv)
        fleet.sighted(worker, seen, now)
    for prefill in fleet.workers.values():
        for decode in fleet.workers.values():
            if fleet.needs_handshake(prefill, decode):
                fleet.shaken(prefill, decode)
    for worker in fleet.workers.values():
        fleet.joined(worker, now)
    return fleet


def router_of(*names: str) -> Router:
    roles = {"p": Role.PREFILL, "d": Role.DECODE}
    return offered(Router(ready(Fleet(Worker(name, roles[name[0]]) for name in names)), RoundRobin()))


def offered(router: Router) -> Router:
    """Have admission know the workers that are ready."""
    for worker in router.fleet.workers.values():
        if worker.decodes and worker.state is WorkerState.READY:
            router.admission.offer(worker.name, worker.sighting.models, None, 0.0)
    return router


def life_of(router: Router, **fields: object) -> RequestLife:
    view = RequestView(request_id="r", model="m", prompt_tokens=10, output_tokens=5, **fields)  # type: ignore[arg-type]
    return RequestLife(Ticket(view, Terms(tenant="t")), router)


def start(life: RequestLife, now: float) -> list[Command]:
    """Have the request admitted, and begin."""
    [verdict] = life.router.admission.submit(life.ticket, now)
    assert isinstance(verdict, Start)
    return life.start(now, verdict.decision)


def confirm(router: Router, commands: list[object]) -> None:
    """Do what the reaper does once a worker has heard."""
    for command in commands:
        if isinstance(command, Abort):
            if command.releases:
                router.ledger.on(command.wire_id, HandoverEvent.RELEASED)
            router.ids.release(command.wire_id)


def assert_nothing_held(router: Router, life: RequestLife | None = None) -> None:
    if life is not None:
        router.admission.release(life.ticket, 0.0)
        assert (router.admission.slots.held_tokens, router.admission.problems()) == (0, [])
    assert (len(router.ledger), len(router.ids)) == (0, 0)
    for worker in router.fleet.workers.values():
        assert (worker.prefill_tokens, worker.decode_tokens) == (0, 0)
        assert (worker.prefill_requests, worker.decode_requests) == (0, 0)


def test_a_request_is_prefilled_decoded_and_relayed() -> None:
    router = router_of("p1", "d1")
    p1, d1 = router.fleet.workers.values()
    life = life_of(router)

    assert start(life, 0.0) == [SendPrefill(p1, "r")]
    assert life.prefill_answered(with_kv=True, tokens=12) == [SendDecode(d1, "r", with_kv=True)]
    assert router.ledger.outstanding_tokens() == {"p1": 12}
    assert life.decode_answered() == [Relay()]
    assert life.stream_ended() == NOTHING
    assert router.counts.outcomes[Outcome.SERVED] == 1
    assert_nothing_held(router, life)


def test_both_workers_count_the_request_from_the_decision_on() -> None:
    router = router_of("p1", "d1")
    p1, d1 = router.fleet.workers.values()
    life = life_of(router)

    start(life, 0.0)
    assert (p1.prefill_tokens, d1.decode_tokens) == (10, 15)
    life.prefill_answered(with_kv=True, tokens=12)
    assert (p1.prefill_tokens, d1.decode_tokens) == (0, 15)


def test_without_kv_the_decode_worker_gets_the_request_alone() -> None:
    router = router_of("p1", "d1")
    life = life_of(router)
    start(life, 0.0)

    assert life.prefill_answered(with_kv=False, tokens=None) == [
        SendDecode(router.fleet.workers["d1"], "r", with_kv=False)
    ]
    assert len(router.ledger) == 0


def test_a_failed_prefill_is_tried_on_the_other_worker_under_another_id() -> None:
    router = router_of("p1", "p2", "d1")
    p1, p2, _ = router.fleet.workers.values()
    life = life_of(router)
    start(life, 0.0)

    assert life.leg_failed(ERROR, 1.0) == [SendPrefill(p2, "r-retry1")]
    assert p1.failures == 1
    assert router.counts.retries == {"prefill": 1, "decode": 0}


def test_a_prefill_worker_that_went_silent_is_told_to_free_what_it_may_hold() -> None:
    router = router_of("p1", "p2", "d1")
    p1, p2, _ = router.fleet.workers.values()
    life = life_of(router)
    start(life, 0.0)

    assert life.leg_failed(TIMEOUT, 1.0) == [
        Probe(p1),
        Abort(p1, "r", releases=True),
        SendPrefill(p2, "r-retry1"),
    ]
    assert len(router.ledger) == 2


def test_a_failed_decode_leg_has_prefill_done_again_since_its_kv_may_be_gone() -> None:
    router = router_of("p1", "d1", "d2")
    p1, d1, d2 = router.fleet.workers.values()
    life = life_of(router)
    start(life, 0.0)
    life.prefill_answered(with_kv=True, tokens=10)

    assert life.leg_failed(LOST, 1.0) == [
        Probe(d1),
        Abort(d1, "r", releases=False),
        Abort(p1, "r", releases=True),
        SendPrefill(p1, "r-retry1"),
    ]
    assert life.prefill_answered(with_kv=True, tokens=10) == [SendDecode(d2, "r-retry1", with_kv=True)]


def test_a_refusing_worker_is_out_of_rotation_at_once() -> None:
    router = router_of("p1", "d1", "d2")
    d1 = router.fleet.workers["d1"]
    life = life_of(router)
    start(life, 0.0)
    life.prefill_answered(with_kv=True, tokens=10)
    life.leg_failed(REFUSED, 1.0)

    assert d1.state is WorkerState.DOWN
    assert d1 not in router.fleet.pool("m").decode


def test_with_no_prefill_worker_left_decode_serves_alone() -> None:
    router = router_of("p1", "d1")
    life = life_of(router)
    start(life, 0.0)

    assert life.leg_failed(ERROR, 1.0) == [SendDecode(router.fleet.workers["d1"], "r-retry1", with_kv=False)]


@pytest.mark.parametrize("failure", [BUSY, ERROR])
def test_when_nobody_is_left_the_last_workers_own_answer_is_shown(failure: Failure) -> None:
    router = router_of("d1")
    life = life_of(router)
    start(life, 0.0)

    assert life.leg_failed(failure, 1.0) == [RelayLastAnswer()]
    assert_nothing_held(router, life)


def test_when_nobody_is_left_and_nobody_answered_the_proxy_refuses() -> None:
    router = router_of("d1")
    life = life_of(router)
    start(life, 0.0)

    assert life.leg_failed(REFUSED, 1.0)[-1] == Refuse(Outcome.UNAVAILABLE, REFUSED)
    assert_nothing_held(router, life)


def test_with_nobody_there_the_request_is_refused_at_once() -> None:
    router = router_of("d1")
    router.admission.withdraw("d1", 0.0)
    life = life_of(router)

    [verdict] = router.admission.submit(life.ticket, 0.0)
    assert isinstance(verdict, TurnAway)
    life.refused(verdict.reason)
    assert verdict.reason is RefusalReason.NO_WORKERS
    assert_nothing_held(router, life)


def test_a_request_that_keeps_losing_workers_is_given_up() -> None:
    router = router_of("d1", "d2", "d3", "d4")
    life = life_of(router)
    commands = [*start(life, 0.0), *life.leg_failed(LOST, 1.0), *life.leg_failed(LOST, 2.0)]
    last = life.leg_failed(LOST, 3.0)
    confirm(router, [*commands, *last])

    assert last[-1] == Refuse(Outcome.FAILED, LOST)
    assert_nothing_held(router, life)


def test_a_rejected_prefill_ends_the_request_with_nothing_to_free() -> None:
    router = router_of("p1", "d1")
    life = life_of(router)
    start(life, 0.0)

    assert life.rejected() == [Relay()]
    assert life.stream_ended() == NOTHING
    assert router.counts.outcomes[Outcome.REJECTED] == 1
    assert_nothing_held(router, life)


def test_a_rejected_decode_leg_frees_the_kv_it_will_not_pull() -> None:
    router = router_of("p1", "d1")
    life = life_of(router)
    start(life, 0.0)
    life.prefill_answered(with_kv=True, tokens=10)
    commands = life.rejected()
    life.stream_ended()

    assert commands == [Relay(), Abort(router.fleet.workers["p1"], "r", releases=True)]
    confirm(router, list(commands))
    assert_nothing_held(router, life)


def test_a_broken_stream_is_told_and_both_workers_drop_it() -> None:
    router = router_of("p1", "d1")
    p1, d1 = router.fleet.workers.values()
    life = life_of(router)
    start(life, 0.0)
    life.prefill_answered(with_kv=True, tokens=10)
    life.decode_answered()
    commands = life.stream_broken(LOST, 1.0)

    assert commands == [
        TellBroken(LOST),
        Probe(d1),
        Abort(p1, "r", releases=True),
        Abort(d1, "r", releases=False),
    ]
    assert router.counts.outcomes[Outcome.BROKEN] == 1
    confirm(router, list(commands))
    assert_nothing_held(router, life)


@pytest.mark.parametrize(
    ("steps", "aborted"),
    [(0, ["p1"]), (1, ["p1", "d1"]), (2, ["p1", "d1"])],
    ids=["during prefill", "before decode answers", "mid-stream"],
)
def test_a_client_that_leaves_has_whoever_works_for_it_told(steps: int, aborted: list[str]) -> None:
    router = router_of("p1", "d1")
    life = life_of(router)
    start(life, 0.0)
    if steps > 0:
        life.prefill_answered(with_kv=True, tokens=10)
    if steps > 1:
        life.decode_answered()
    commands = life.client_gone()
    confirm(router, list(commands))

    assert [command.worker.name for command in commands if isinstance(command, Abort)] == aborted
    assert router.counts.outcomes[Outcome.CANCELLED] == 1
    assert_nothing_held(router, life)


def test_a_client_that_leaves_after_the_end_changes_nothing() -> None:
    router = router_of("d1")
    life = life_of(router)
    start(life, 0.0)
    life.decode_answered()
    life.stream_ended()

    assert life.client_gone() == NOTHING
    assert router.counts.outcomes[Outcome.CANCELLED] == 0


def test_an_id_in_use_is_not_used_again_until_its_abort_is_confirmed() -> None:
    router = router_of("p1", "d1")
    first = life_of(router)
    start(first, 0.0)
    commands = first.client_gone()
    second = life_of(router)
    start(second, 0.0)

    assert second.wire_id == "r-1"
    confirm(router, list(commands))
    third = life_of(router)
    start(third, 0.0)
    assert third.wire_id == "r"


def test_several_answers_are_not_split_over_vllm_workers() -> None:
    workers = [Worker("p1", Role.PREFILL, Kind.VLLM), Worker("d1", Role.DECODE, Kind.VLLM)]
    router = offered(Router(ready(Fleet(workers)), RoundRobin()))

    assert start(life_of(router), 0.0) == [SendPrefill(workers[0], "r")]
    assert start(life_of(router, answers=2), 0.0) == [SendDecode(workers[1], "r-1", with_kv=False)]


def test_the_decode_slot_follows_the_request_to_another_worker() -> None:
    router = router_of("p1", "d1", "d2")
    life = life_of(router)
    start(life, 0.0)
    life.prefill_answered(with_kv=True, tokens=12)
    assert router.admission.slots.held_by_worker() == {"d1": 15, "d2": 0}

    commands = life.leg_failed(LOST, 1.0)
    assert router.admission.slots.held_by_worker() == {"d1": 0, "d2": 15}
    confirm(router, [*commands, *life.client_gone()])
    assert_nothing_held(router, life)


def test_a_client_that_leaves_the_queue_is_counted_and_nothing_is_held() -> None:
    router = router_of("p1", "d1")
    life = life_of(router)

    assert life.client_gone() == NOTHING
    assert router.counts.outcomes[Outcome.CANCELLED] == 1
    assert_nothing_held(router, life)
