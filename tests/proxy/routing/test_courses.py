"""Policies in force: whoever reads a memory has it fed."""

from baton.proxy.routing.courses import DEFAULT, SHADOW, Courses
from baton.proxy.routing.least_tokens import LeastTokensConfig
from baton.proxy.routing.memory_config import IndexConfig
from baton.proxy.routing.pair_cost import PairCostConfig
from baton.proxy.routing.round_robin import RoundRobinConfig
from baton.proxy.routing.view import RequestView
from baton.proxy.simulator.simulation import MODEL, FleetSize, simulated_fleet

FLEET = simulated_fleet(FleetSize(2, 2))
LEARNING = PairCostConfig(decode_alone=False)

PROMPT = b"x" * 4096
CHUNKS = len(PROMPT) // IndexConfig().chunk_bytes


def serve(courses: Courses, now: float) -> None:
    request = RequestView("r", MODEL, 2048, 256, PROMPT)
    decision = courses.decide(request, FLEET, now)
    assert decision is not None
    courses.dispatched(request, decision, now)
    courses.prefilled(request, prompt_tokens=2048, cached_tokens=0, now=now + 1)
    courses.streaming(request, cached_tokens=None, now=now + 2)
    courses.ended(request, output_tokens=10, now=now + 3)


def known_chunks(courses: Courses) -> int:
    assert courses.shadow is not None
    assert courses.shadow.memory is courses.default.memory
    return courses.shadow.memory.match(RequestView("q", MODEL, 2048, 256, PROMPT), 5.0).longest


def test_a_learning_shadow_learns_over_a_policy_that_does_not() -> None:
    courses = Courses("round_robin", RoundRobinConfig(), 0.0)
    serve(courses, 0.0)
    courses.put(SHADOW, courses.prepare(SHADOW, "pair_cost", LEARNING, 0.0))
    assert known_chunks(courses) == 0

    serve(courses, 0.0)
    assert known_chunks(courses) == CHUNKS


def test_a_shadow_learns_on_when_what_it_shadows_changes() -> None:
    courses = Courses("round_robin", RoundRobinConfig(), 0.0)
    courses.put(SHADOW, courses.prepare(SHADOW, "pair_cost", LEARNING, 0.0))
    courses.put(DEFAULT, courses.prepare(DEFAULT, "least_tokens", LeastTokensConfig(), 0.0))

    serve(courses, 0.0)
    assert known_chunks(courses) == CHUNKS


def test_a_rehearsal_does_not_move_the_turn_of_the_policy_in_force() -> None:
    courses = Courses("round_robin", RoundRobinConfig(), 0.0)
    asked = RequestView("r", MODEL, 100, 100, b"")
    newcomer = courses.prepare(DEFAULT, "least_tokens", LeastTokensConfig(), 0.0)
    rehearsal = courses.rehearse(newcomer, [asked] * 3, FLEET, 0.0)
    decision = courses.decide(asked, FLEET, 0.0)

    assert rehearsal.requests == 3
    assert decision is not None
    assert (decision.prefill, decision.decode) == (FLEET.workers["p0"], FLEET.workers["d0"])


def test_what_a_shadow_learned_is_kept_by_the_policy_that_becomes_the_default() -> None:
    courses = Courses("round_robin", RoundRobinConfig(), 0.0)
    courses.put(SHADOW, courses.prepare(SHADOW, "pair_cost", LEARNING, 0.0))
    serve(courses, 0.0)
    courses.put(DEFAULT, courses.prepare(DEFAULT, "pair_cost", LEARNING, 0.0))

    assert known_chunks(courses) == CHUNKS
