"""The log of decisions tells each attempt's own times."""

from baton.proxy.routing.decision_log import DecisionLog, explain
from baton.proxy.routing.observer import Leg
from baton.proxy.routing.policy import Decision
from baton.proxy.routing.view import RequestView
from baton.proxy.simulator.simulation import MODEL, FleetSize, simulated_fleet

FLEET = simulated_fleet(FleetSize(1, 2))
P0, D0, D1 = (FLEET.workers[name] for name in ("p0", "d0", "d1"))


def test_an_answer_that_broke_off_lasted_until_then_and_its_continuation_to_the_end() -> None:
    log, request = DecisionLog(10, lambda model: "v"), RequestView("r", MODEL, 100, 100)
    log.dispatched(request, Decision(D0, P0), 0.0)
    log.streaming(request, cached_tokens=None, now=1.0)
    log.failed(request, Leg.DECODE, 3.0)
    log.dispatched(request, Decision(D1, P0), 4.0)
    log.streaming(request, cached_tokens=None, now=5.0)
    log.ended(request, output_tokens=20, now=9.0)
    record = log.find("r")
    assert record is not None
    first, second = (each["actual"] for each in explain(record)["decisions"])

    assert (first["answer_s"], first["total_s"]) == (2.0, 3.0)
    assert (second["answer_s"], second["total_s"]) == (4.0, 5.0)
