"""A request starts once its decode slot is granted, or is refused in time; at the end the books read zero."""

from dataclasses import dataclass, field
from itertools import count
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from baton.proxy.routing.admission import Admission
from baton.proxy.routing.admission_config import AdmissionConfig
from baton.proxy.routing.fleet import Role, Worker
from baton.proxy.routing.policy import Decision
from baton.proxy.routing.tenants import Terms
from baton.proxy.routing.ticket import Standing, Ticket
from baton.proxy.routing.verdict import RefusalReason, Refuse, Start, Verdict
from baton.proxy.routing.view import RequestView

MODEL = "demo"
_numbers = count()


def ticket(tokens: int = 100, *, body_bytes: int = 0, **terms: Any) -> Ticket:
    view = RequestView(f"r{next(_numbers)}", MODEL, prompt_tokens=tokens, output_tokens=0)
    return Ticket(view, Terms(**({"tenant": "t"} | terms)), body_bytes)


@dataclass
class FirstFit:
    """A policy: the first of the ready workers that was not tried."""

    ready: list[str] = field(default_factory=list)

    def choose(self, request: RequestView, now: float) -> Decision | None:
        fit = [name for name in self.ready if name not in request.tried_decode]
        return Decision(Worker(fit[0], Role.DECODE), None) if fit else None


class Desk:
    """An admission with workers of given capacities."""

    def __init__(self, capacities: dict[str, int | None], **config: Any) -> None:
        self.policy = FirstFit(list(capacities))
        self.admission = Admission(AdmissionConfig(**config), self.policy.choose)
        for worker, capacity in capacities.items():
            assert self.admission.offer(worker, [MODEL], capacity, now=0.0) == []

    def fill(self, tokens: int = 100) -> Ticket:
        """Have a request take the room that there is."""
        holder = ticket(tokens)
        assert started(self.admission.submit(holder, now=0.0)) == [holder]
        return holder

    def wait(self, *tickets: Ticket, now: float = 0.0) -> None:
        for each in tickets:
            assert self.admission.submit(each, now) == []


def started(verdicts: list[Verdict]) -> list[Ticket]:
    return [verdict.ticket for verdict in verdicts if isinstance(verdict, Start)]


def refused(verdicts: list[Verdict]) -> list[tuple[Ticket, RefusalReason]]:
    return [(verdict.ticket, verdict.reason) for verdict in verdicts if isinstance(verdict, Refuse)]


def test_a_request_starts_at_once_where_there_is_room_and_holds_its_slot() -> None:
    desk = Desk({"a": 100, "b": 100})
    first, second = ticket(), ticket()

    (one,) = desk.admission.submit(first, now=0.0)
    (two,) = desk.admission.submit(second, now=0.0)

    assert isinstance(one, Start)
    assert isinstance(two, Start)
    assert (one.decision.decode.name, two.decision.decode.name) == ("a", "b")
    assert desk.admission.slots.held_by_worker() == {"a": 100, "b": 100}


def test_it_waits_until_a_slot_comes_free() -> None:
    desk = Desk({"a": 100})
    holder, waiting = desk.fill(), ticket()
    desk.wait(waiting)

    (verdict,) = desk.admission.release(holder, now=7.0)

    assert isinstance(verdict, Start)
    assert (verdict.ticket, verdict.waited_s) == (waiting, 7.0)


def test_what_waits_is_not_overtaken_by_a_smaller_newcomer() -> None:
    desk = Desk({"a": 100})
    holder, large = desk.fill(60), ticket(80)
    desk.wait(large, ticket(10))

    assert started(desk.admission.release(holder, now=1.0))[0] is large


def test_a_new_worker_starts_who_waits() -> None:
    desk = Desk({"a": 100})
    desk.fill()
    waiting = [ticket(50), ticket(50), ticket(50)]
    desk.wait(*waiting)
    desk.policy.ready.append("b")

    assert started(desk.admission.offer("b", [MODEL], 100, now=1.0)) == waiting[:2]


def test_a_worker_of_unknown_capacity_takes_all_or_what_is_assumed() -> None:
    desk = Desk({"a": None})
    assert started(desk.admission.submit(ticket(10**9), now=0.0))
    assert started(desk.admission.submit(ticket(10**9), now=0.0))

    assumed = Desk({"a": None}, assumed_kv_tokens=100)
    assumed.fill()
    assumed.wait(ticket())


def test_capacity_may_be_overcommitted() -> None:
    desk = Desk({"a": 100}, overcommit=2.0)
    desk.fill()
    desk.fill()
    desk.wait(ticket())


def test_each_wait_ends_with_a_refusal_that_says_when_to_come_back() -> None:
    desk = Desk({"a": 100}, max_wait_s=30.0, longest_retry_after_s=45)
    desk.fill()
    patient, hasty = ticket(), ticket(max_wait_s=5.0)
    desk.wait(patient, hasty)

    assert desk.admission.next_tick() == 5.0
    assert desk.admission.tick(now=4.9) == []
    assert desk.admission.tick(now=5.0) == [Refuse(hasty, RefusalReason.TIMEOUT, 45)]
    assert desk.admission.next_tick() == 30.0
    assert refused(desk.admission.tick(now=30.0)) == [(patient, RefusalReason.TIMEOUT)]
    assert desk.admission.next_tick() is None


def test_no_client_may_wait_longer_than_the_queue_allows() -> None:
    desk = Desk({"a": 100}, max_wait_s=30.0)
    desk.fill()
    desk.wait(ticket(max_wait_s=1e9))

    assert desk.admission.next_tick() == 30.0


def test_retry_after_follows_the_drain_rate() -> None:
    desk = Desk({"a": 1000}, queue_requests=0)
    now = 0.0
    for _ in range(100):
        now += 1.0
        holder = ticket(1000)
        assert started(desk.admission.submit(holder, now - 0.5)) == [holder]
        desk.admission.release(holder, now)
    desk.fill(1000)

    (verdict,) = desk.admission.submit(ticket(4000), now)
    assert isinstance(verdict, Refuse)
    assert 4 <= verdict.retry_after_s <= 5


def test_a_full_queue_gives_up_the_newest_of_the_lowest_priority() -> None:
    desk = Desk({"a": 100}, queue_requests=2)
    desk.fill()
    old, low = ticket(), ticket(priority=-1)
    desk.wait(old, low)

    high = ticket(priority=1)
    assert refused(desk.admission.submit(high, now=0.0)) == [(low, RefusalReason.QUEUE_FULL)]
    newest = ticket()
    assert refused(desk.admission.submit(newest, now=1.0)) == [(newest, RefusalReason.QUEUE_FULL)]
    assert (old.standing, high.standing) == (Standing.WAITING, Standing.WAITING)


def test_the_bodies_of_those_who_wait_are_bounded_too() -> None:
    desk = Desk({"a": 100}, queue_bytes=1000)
    desk.fill()
    desk.wait(ticket(body_bytes=900))
    large = ticket(body_bytes=101)

    assert refused(desk.admission.submit(large, now=0.0)) == [(large, RefusalReason.QUEUE_FULL)]


def test_a_tenant_at_its_limit_is_refused_while_others_may_wait() -> None:
    desk = Desk({"a": 100})
    desk.fill()
    desk.wait(ticket(tenant="few", tenant_queued_requests=1))
    more = ticket(tenant="few", tenant_queued_requests=1)

    assert refused(desk.admission.submit(more, now=0.0)) == [(more, RefusalReason.TENANT_LIMIT)]
    desk.wait(ticket(tenant="other"))


def test_without_workers_a_request_is_refused_at_once_or_after_the_agreed_time() -> None:
    lone = ticket()
    assert Desk({}).admission.submit(lone, now=0.0) == [Refuse(lone, RefusalReason.NO_WORKERS, 1)]

    desk = Desk({}, wait_without_workers_s=3.0)
    waiting = ticket()
    desk.wait(waiting)
    assert desk.admission.next_tick() == 3.0
    assert desk.admission.tick(now=2.9) == []
    assert refused(desk.admission.tick(now=3.0)) == [(waiting, RefusalReason.NO_WORKERS)]


def test_a_restarting_worker_finds_its_queue_again() -> None:
    desk = Desk({"a": 100}, wait_without_workers_s=3.0)
    holder, waiting = desk.fill(), ticket()
    desk.wait(waiting)

    assert desk.admission.withdraw("a", now=1.0) == []
    assert desk.admission.release(holder, now=1.0) == []
    assert started(desk.admission.offer("a", [MODEL], 100, now=2.0)) == [waiting]


def test_when_the_last_worker_goes_nobody_is_left_waiting() -> None:
    desk = Desk({"a": 100})
    desk.fill()
    waiting = [ticket(), ticket()]
    desk.wait(*waiting)

    assert [reason for _, reason in refused(desk.admission.withdraw("a", now=1.0))] == [
        RefusalReason.NO_WORKERS
    ] * 2
    assert desk.admission.waiting == 0


def test_a_failed_leg_moves_the_slot_to_another_worker() -> None:
    desk = Desk({"a": 100, "b": 100})
    moved = desk.fill()
    moved.request.tried_decode.add("a")

    decision = desk.admission.replace(moved, now=1.0)

    assert decision is not None
    assert decision.decode.name == "b"
    assert desk.admission.slots.held_by_worker() == {"a": 0, "b": 100}
    assert moved.request.tried_decode == {"a"}


def test_the_room_that_a_failure_made_is_given_to_who_waits() -> None:
    desk = Desk({"a": 100, "b": 100})
    moved, leaving, waiting = desk.fill(), desk.fill(), ticket()
    desk.wait(waiting)
    moved.request.tried_decode.add("a")
    desk.admission.replace(moved, now=2.0)

    assert desk.admission.next_tick() == 2.0
    assert started(desk.admission.tick(now=2.0)) == [waiting]
    assert desk.admission.release(leaving, now=3.0) == []


def test_what_has_started_is_sent_beyond_capacity_rather_than_lost() -> None:
    desk = Desk({"a": 100, "b": 100})
    moved = desk.fill()
    desk.fill()
    moved.request.tried_decode.add("a")

    decision = desk.admission.replace(moved, now=1.0)

    assert decision is not None
    assert desk.admission.slots.held_by_worker()["b"] == 200
    assert desk.admission.counts.beyond_capacity == 1
    moved.request.tried_decode.add("b")
    assert desk.admission.replace(moved, now=1.0) is None
    assert desk.admission.slots.held_by_worker() == {"a": 0, "b": 100}


def test_a_client_that_leaves_while_it_waits_makes_way() -> None:
    desk = Desk({"a": 100})
    desk.fill(60)
    large, small = ticket(80), ticket(10)
    desk.wait(large, small)

    assert started(desk.admission.release(large, now=1.0)) == [small]
    assert desk.admission.release(large, now=1.0) == []
    assert desk.admission.counts.cancelled == 1


def test_the_policy_is_asked_again_soon_when_it_names_nobody() -> None:
    desk = Desk({"a": 100})
    desk.policy.ready.clear()
    waiting = ticket()
    desk.wait(waiting)
    due = desk.admission.next_tick()
    assert due is not None
    assert due < 1.0

    desk.policy.ready.append("a")
    assert started(desk.admission.tick(due)) == [waiting]


def test_a_crowd_that_comes_and_goes_leaves_no_deadlines_behind() -> None:
    desk = Desk({"a": 100})
    desk.fill()
    desk.wait(ticket())
    for _ in range(1000):
        leaving = ticket()
        desk.wait(leaving)
        desk.admission.release(leaving, now=0.0)

    assert len(desk.admission._due) < 100


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order: no request is lost, started twice or kept beyond its time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.policy = FirstFit()
        config = AdmissionConfig(queue_requests=6, queue_bytes=100, max_wait_s=10.0, share_every=3)
        self.admission = Admission(config, self.policy.choose)
        self.open: set[Ticket] = set()
        self.running: set[Ticket] = set()

    def take(self, verdicts: list[Verdict]) -> None:
        for verdict in verdicts:
            assert verdict.ticket in self.open
            assert verdict.ticket not in self.running
            if isinstance(verdict, Start):
                self.running.add(verdict.ticket)
            else:
                self.open.remove(verdict.ticket)

    @rule(tokens=st.integers(1, 150), priority=st.integers(0, 2), tenant=st.sampled_from("xy"))
    def submit(self, tokens: int, priority: int, tenant: str) -> None:
        made = ticket(
            tokens, body_bytes=tokens // 4, priority=priority, tenant=tenant, tenant_queued_requests=4
        )
        self.open.add(made)
        self.take(self.admission.submit(made, self.now))

    @rule(which=st.integers(0, 50))
    def release(self, which: int) -> None:
        if self.open:
            ended = sorted(self.open, key=lambda each: each.request.request_id)[which % len(self.open)]
            self.open.remove(ended)
            self.running.discard(ended)
            self.take(self.admission.release(ended, self.now))

    @rule(which=st.integers(0, 50))
    def fail(self, which: int) -> None:
        if self.running:
            moved = sorted(self.running, key=lambda each: each.request.request_id)[which % len(self.running)]
            self.admission.replace(moved, self.now)

    @rule(worker=st.sampled_from("abc"), capacity=st.sampled_from([100, 200]))
    def offer(self, worker: str, capacity: int) -> None:
        self.policy.ready = sorted({*self.policy.ready, worker})
        self.take(self.admission.offer(worker, [MODEL], capacity, self.now))

    @rule(worker=st.sampled_from("abc"))
    def withdraw(self, worker: str) -> None:
        self.policy.ready = [name for name in self.policy.ready if name != worker]
        self.take(self.admission.withdraw(worker, self.now))

    @rule(seconds=st.floats(0.1, 6.0))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.take(self.admission.tick(self.now))

    @invariant()
    def the_books_are_in_order(self) -> None:
        assert self.admission.problems() == []
        assert self.admission.waiting == len(self.open) - len(self.running) <= 6
        for each in self.open:
            assert (each.standing is Standing.STARTED) == (each in self.running)
            if each not in self.running:
                assert self.now < each.arrived_at + 10.0
        due = self.admission.next_tick()
        assert (due is not None) or self.admission.waiting == 0

    def teardown(self) -> None:
        for each in list(self.open):
            self.open.discard(each)
            self.running.discard(each)
            self.take(self.admission.release(each, self.now))
        assert (self.admission.waiting, len(self.admission.slots), self.admission.slots.held_tokens) == (
            0,
            0,
            0,
        )


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
