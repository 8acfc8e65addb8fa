"""Who is in rotation, and which pairs may hand KV over."""

from baton.proxy.routing.fleet import (
    COOLING_AFTER_FAILURES,
    PROBES_TO_DOWN,
    Fleet,
    Kind,
    KvAddress,
    Role,
    Sighting,
    Worker,
    WorkerState,
)

KV = KvAddress(host="h", port=1)


def seen(incarnation: str, *models: str, ready: bool = True) -> Sighting:
    names = frozenset(models or ("m",))
    return Sighting(ready=ready, reason="loading", models=names, incarnation=incarnation, kv=KV)


def pair(kind: Kind = Kind.BATON, decode_kind: Kind | None = None) -> tuple[Fleet, Worker, Worker]:
    prefill = Worker("p", Role.PREFILL, kind)
    decode = Worker("d", Role.DECODE, decode_kind or kind)
    return Fleet([prefill, decode]), prefill, decode


def join(fleet: Fleet, worker: Worker, incarnation: str = "1") -> None:
    fleet.sighted(worker, seen(incarnation), 0.0)
    fleet.joined(worker, 0.0)


def test_a_worker_enters_rotation_after_its_handshakes_were_tried() -> None:
    fleet, _, decode = pair()
    states = [decode.state]
    fleet.sighted(decode, seen("1", ready=False), 1.0)
    states.append(decode.state)
    fleet.sighted(decode, seen("1"), 2.0)
    states.append(decode.state)
    before = list(fleet.pool("m").decode)
    fleet.joined(decode, 3.0)

    assert states == [WorkerState.DOWN, WorkerState.LOADING, WorkerState.JOINING]
    assert (before, fleet.pool("m").decode) == ([], [decode])


def test_a_refusal_takes_a_worker_out_and_its_model_stays_known() -> None:
    fleet, _, decode = pair()
    join(fleet, decode)
    fleet.unreachable(decode, "refused", 1.0)

    assert fleet.pool("m").decode == []
    assert fleet.models == {"m"}


def test_one_missed_probe_does_not_take_a_ready_worker_out_but_several_do() -> None:
    fleet, _, decode = pair()
    join(fleet, decode)
    states = []
    for second in range(PROBES_TO_DOWN):
        fleet.missed(decode, "no answer", float(second))
        states.append(decode.state)

    assert states == [WorkerState.READY] * (PROBES_TO_DOWN - 1) + [WorkerState.DOWN]


def test_a_pair_may_hand_over_once_it_has_shaken_hands_and_until_either_restarts() -> None:
    fleet, prefill, decode = pair()
    join(fleet, prefill)
    join(fleet, decode)
    steps = [(fleet.needs_handshake(prefill, decode), fleet.may_pair(prefill, decode))]
    fleet.shaken(prefill, decode)
    steps.append((fleet.needs_handshake(prefill, decode), fleet.may_pair(prefill, decode)))
    join(fleet, prefill, "2")
    steps.append((fleet.needs_handshake(prefill, decode), fleet.may_pair(prefill, decode)))

    assert steps == [(True, False), (False, True), (True, False)]


def test_a_restarted_worker_leaves_rotation_until_it_has_shaken_hands() -> None:
    fleet, prefill, _ = pair()
    join(fleet, prefill)
    fleet.sighted(prefill, seen("2"), 1.0)

    assert prefill.state is WorkerState.JOINING
    assert fleet.pool("m").prefill == []


def test_vllm_workers_pair_with_each_other_alone() -> None:
    same, p, d = pair(Kind.VLLM)
    mixed, other_p, other_d = pair(Kind.VLLM, Kind.BATON)

    assert (same.may_pair(p, d), same.needs_handshake(p, d)) == (True, False)
    assert (mixed.may_pair(other_p, other_d), mixed.needs_handshake(other_p, other_d)) == (False, False)


def test_a_worker_of_both_roles_does_not_pull_from_itself() -> None:
    both = Worker("b", Role.BOTH)
    fleet = Fleet([both])
    join(fleet, both)

    assert fleet.pool("m").prefill == fleet.pool("m").decode == [both]
    assert fleet.unshaken() == []


def test_failures_in_a_row_cool_a_worker_for_longer_and_longer() -> None:
    fleet, _, decode = pair()
    for _ in range(COOLING_AFTER_FAILURES - 1):
        fleet.failed(decode, 10.0)
    before = decode.cooling_until
    fleet.failed(decode, 10.0)
    first = decode.cooling_until
    fleet.failed(decode, 10.0)

    assert (before, first, decode.cooling_until) == (0.0, 11.0, 12.0)
