"""What one process has in flight counts in its siblings, to the last token, and is gone when it is gone."""

import msgspec

from baton.proxy.routing.commands import Abort, Failure, Fault
from baton.proxy.routing.courses import Courses
from baton.proxy.routing.fleet import Fleet, KvAddress, Role, Sighting, Worker, WorkerState
from baton.proxy.routing.life import RequestLife
from baton.proxy.routing.memory_config import IndexConfig
from baton.proxy.routing.pair_cost import PairCostConfig
from baton.proxy.routing.router import Router
from baton.proxy.routing.tenants import Terms
from baton.proxy.routing.ticket import Ticket
from baton.proxy.routing.verdict import Start
from baton.proxy.routing.view import RequestView
from baton.proxy.siblings.messages import Event
from baton.proxy.siblings.publisher import Publisher
from baton.proxy.siblings.shadows import Shadows

PROMPT = bytes(range(256)) * 8


class Process:
    """The routing of one process, without sockets."""

    def __init__(self) -> None:
        self.courses = Courses("pair_cost", PairCostConfig(decode_alone=False), 0.0)
        self.publisher = Publisher()
        self.router = Router(fleet(), self.courses, observers=(self.courses, self.publisher))
        self.shadows = Shadows(self.router, (self.courses,), self.release)
        for name in ("d0", "d1"):
            self.router.admission.offer(name, {"m"}, None, 0.0)

    def release(self, ticket: Ticket, now: float) -> None:
        self.router.admission.release(ticket, now)

    def request(self) -> RequestLife:
        """Have a request begin."""
        view = RequestView("r", "m", 600, 100, prompt=PROMPT)
        life = RequestLife(Ticket(view, Terms(tenant="")), self.router)
        [verdict] = self.router.admission.submit(life.ticket, 0.0)
        assert isinstance(verdict, Start)
        life.start(0.0, verdict.decision)
        return life

    def hears(self, events: list[Event]) -> None:
        for event in over_the_wire(events):
            self.shadows.apply(event)

    def booked(self) -> list[tuple[int, int, int, int]]:
        return [
            (w.prefill_requests, w.prefill_tokens, w.decode_requests, w.decode_tokens)
            for w in self.router.fleet.workers.values()
        ]

    def longest_match(self) -> int:
        view = RequestView("other", "m", 600, 100, prompt=PROMPT)
        return self.courses.default.memory.match(view, 0.0).longest


def over_the_wire(events: list[Event]) -> list[Event]:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(events), type=list[Event])


def fleet() -> Fleet:
    roles = {"p0": Role.PREFILL, "d0": Role.DECODE, "d1": Role.DECODE}
    workers = [Worker(name, role) for name, role in roles.items()]
    found = Fleet(workers)
    for worker in workers:
        kv = KvAddress(host="h", port=1)
        found.sighted(worker, Sighting(ready=True, models=frozenset({"m"}), incarnation="1", kv=kv), 0.0)
    for prefill, decode in found.unshaken() or [(workers[0], each) for each in workers[1:]]:
        found.shaken(prefill, decode)
    for worker in workers:
        found.joined(worker, 0.0)
        assert worker.state is WorkerState.READY
    return found


def test_a_siblings_request_is_booked_as_its_own() -> None:
    here, there = Process(), Process()
    life = here.request()
    there.hears(here.publisher.take())

    assert there.booked() == here.booked()
    assert there.router.admission.slots.held_by_worker() == here.router.admission.slots.held_by_worker()
    assert there.longest_match() == here.longest_match() == len(PROMPT) // IndexConfig().chunk_bytes
    assert len(there.router.ledger) == 0
    assert life.ticket.request.wire_id == "r"


def test_when_it_ends_nothing_of_it_is_booked_but_its_prefix_is_known() -> None:
    here, there = Process(), Process()
    life = here.request()
    view = life.ticket.request
    for observer in here.router.observers:
        observer.prefilled(view, prompt_tokens=600, cached_tokens=0, now=0.1)
    life.prefill_answered(with_kv=True, tokens=600)
    there.hears(here.publisher.take())
    assert there.booked() == here.booked()

    for observer in here.router.observers:
        observer.streaming(view, cached_tokens=None, now=0.2)
        observer.ended(view, output_tokens=5, now=0.3)
    there.hears(here.publisher.take())

    assert there.booked() == [(0, 0, 0, 0)] * 3
    assert (len(there.shadows), len(there.router.admission.slots)) == (0, 0)
    assert there.longest_match() > 0


def test_a_retry_is_another_flight_under_another_id() -> None:
    here, there = Process(), Process()
    life = here.request()
    there.hears(here.publisher.take())
    life.leg_failed(Failure(Fault.ERROR, "500"), 0.1)
    events = here.publisher.take()
    there.hears(events)

    assert there.booked() == here.booked()
    assert len(there.shadows) == 1


def test_a_sibling_that_is_gone_takes_its_requests_with_it_and_leaves_word_of_them() -> None:
    here, there = Process(), Process()
    decision = here.request().decision
    there.hears(here.publisher.take())
    aborts = there.shadows.drop(1.0)

    workers = there.router.fleet.workers
    assert decision is not None
    assert decision.prefill is not None
    assert aborts == [
        Abort(workers[decision.prefill.name], "r", releases=False),
        Abort(workers[decision.decode.name], "r", releases=False),
    ]
    assert there.booked() == [(0, 0, 0, 0)] * 3
    assert len(there.router.admission.slots) == 0


def test_who_has_heard_nothing_is_told_everything_in_flight() -> None:
    here, late = Process(), Process()
    ended, going = here.request(), here.request()
    for observer in here.router.observers:
        observer.ended(ended.ticket.request, output_tokens=None, now=0.1)
    here.publisher.take()
    late.hears(here.publisher.snapshot())

    assert len(late.shadows) == 1
    assert going.decision is not None


def test_what_is_about_a_worker_that_is_unknown_is_left_out() -> None:
    here, there = Process(), Process()
    here.request()
    for name in ("p0", "d0", "d1"):
        there.router.fleet.remove(there.router.fleet.workers[name], 0.0)
    there.hears(here.publisher.take())

    assert len(there.shadows) == 0
