"""Ranks wake together, sleep together and end together, and no late ring wakes one of them alone."""

from baton.engine.ranks.lockstep import Lockstep, Plan, Pulse, Wish, as_numbers, as_plan


def plan_of(tokens: int = 0, *, end: bool = False) -> Plan:
    return agreed(Wish(prompt_tokens=tokens, decode_rows=0, wants_to_end=end))


def agreed(*wishes: Wish) -> Plan:
    return as_plan([max(numbers) for numbers in zip(*map(as_numbers, wishes), strict=True)])


def wish(tokens: int = 0, rows: int = 0, end: bool = False) -> Wish:
    return Wish(prompt_tokens=tokens, decode_rows=rows, wants_to_end=end)


IDLE, BUSY, LAST = plan_of(), plan_of(7), plan_of(end=True)


def test_the_plan_is_what_any_rank_needs_and_what_all_can_do() -> None:
    plan = agreed(wish(tokens=9, rows=2), wish(rows=3), wish(rows=5, end=True))

    assert plan == Plan(
        prompt_tokens=9, decode_rows=5, fewest_prompt_tokens=0, fewest_decode_rows=2, all_want_to_end=False
    )


def test_the_end_needs_every_rank() -> None:
    assert not agreed(wish(end=True), wish()).all_want_to_end
    assert agreed(wish(end=True), wish(end=True)).all_want_to_end


def test_work_wakes_a_rank_once_and_names_the_wave_to_ring_for() -> None:
    lockstep = Lockstep(idle_steps=2)

    assert lockstep.on_work() == 0
    assert lockstep.on_work() is None
    assert lockstep.pulse is Pulse.AWAKE


def test_ranks_sleep_after_enough_idle_agreements_in_a_row() -> None:
    lockstep = Lockstep(idle_steps=2)
    lockstep.on_work()

    pulses = []
    for plan in (IDLE, BUSY, IDLE, IDLE):
        lockstep.on_plan(plan)
        pulses.append(lockstep.pulse)

    assert pulses == [Pulse.AWAKE, Pulse.AWAKE, Pulse.AWAKE, Pulse.ASLEEP]


def test_a_ring_that_comes_after_its_wave_is_over_wakes_nobody() -> None:
    lockstep = Lockstep(idle_steps=1)
    lockstep.on_work()
    lockstep.on_ring(0)
    lockstep.on_plan(IDLE)

    lockstep.on_ring(0)
    assert lockstep.pulse is Pulse.ASLEEP

    lockstep.on_ring(1)
    assert lockstep.pulse is Pulse.AWAKE


def test_a_group_whose_ranks_all_want_to_end_ends_at_once() -> None:
    lockstep = Lockstep(idle_steps=16)
    lockstep.on_work()
    lockstep.on_plan(LAST)

    assert lockstep.pulse is Pulse.ENDED


def test_work_that_is_left_keeps_the_group_together() -> None:
    lockstep = Lockstep(idle_steps=16)
    lockstep.on_work()
    lockstep.on_plan(plan_of(7, end=True))

    assert lockstep.pulse is Pulse.AWAKE
