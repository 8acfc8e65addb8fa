"""When ranks compute, and what: state that all keep alike, because changes follow agreements. No I/O.

    ASLEEP --work here, or a ring for this wave--> AWAKE: agree before every step
    AWAKE  --`idle_steps` agreements in a row without work--> ASLEEP, the next wave
    AWAKE  --all want to end and none has work--> ENDED

A wave is the time from waking up to falling asleep. Rings carry the wave's number, so that one that arrives
late cannot wake a rank into a wave that is over, where it would wait alone.
"""

import enum

import msgspec


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What one rank would compute next."""

    prompt_tokens: int
    """In the chunks it would compute."""
    decode_rows: int
    """Live rows of its decode batch."""
    wants_to_end: bool = False
    leaving: tuple[bool, ...] = ()
    """By rank: whether that one, if it is this one, has nothing left to do and wants to leave."""
    has_newcomer: bool = False
    """Someone has called on this rank to join."""
    is_prepared: bool = False
    """This rank could change to the group that is being made ready."""
    gives_up: bool = False
    """This rank cannot change to it."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What all ranks compute next."""

    prompt_tokens: int
    """Of the rank with most; every rank runs a prefill unless it is 0, one without prompts a dummy."""
    decode_rows: int
    """Of the rank with most; every rank runs a decode unless it is 0."""
    fewest_prompt_tokens: int
    fewest_decode_rows: int
    """Of the rank with fewest: what a decision that all must be able to follow goes by."""
    all_want_to_end: bool
    leaving: tuple[int, ...] = ()
    """Ranks that want to leave the others."""
    has_newcomer: bool = False
    all_prepared: bool = False
    one_gives_up: bool = False

    @property
    def is_empty(self) -> bool:
        """No rank has work."""
        return not self.prompt_tokens and not self.decode_rows


def as_numbers(wish: Wish) -> list[int]:
    """Return numbers whose maximum over all ranks is the plan."""
    tokens, rows = wish.prompt_tokens, wish.decode_rows
    flags = [not wish.wants_to_end, not wish.is_prepared, wish.has_newcomer, wish.gives_up, *wish.leaving]
    return [tokens, rows, -tokens, -rows, *map(int, flags)]


def as_plan(largest: list[int]) -> Plan:
    """Read the maximum of all ranks' numbers."""
    tokens, rows, minus_fewest_tokens, minus_fewest_rows, *flags = largest
    someone_stays, unprepared, newcomer, gives_up, *leaving = flags
    return Plan(
        prompt_tokens=tokens,
        decode_rows=rows,
        fewest_prompt_tokens=-minus_fewest_tokens,
        fewest_decode_rows=-minus_fewest_rows,
        all_want_to_end=not someone_stays,
        leaving=tuple(rank for rank, leaves in enumerate(leaving) if leaves),
        has_newcomer=bool(newcomer),
        all_prepared=not unprepared,
        one_gives_up=bool(gives_up),
    )


class Pulse(enum.Enum):
    """Whether the group computes."""

    ASLEEP = "asleep"
    AWAKE = "awake"
    ENDED = "ended"


class Lockstep:
    """One rank's view of its group, the same on all ranks between two steps."""

    def __init__(self, idle_steps: int) -> None:
        """Let the group fall asleep after so many agreements in a row that found no work."""
        self.pulse = Pulse.ASLEEP
        self.wave = 0
        self._idle_steps = idle_steps
        self._idle = 0

    def on_work(self) -> int | None:
        """Wake up because there is work here; return the wave to ring the others for, if they may sleep."""
        if self.pulse is not Pulse.ASLEEP:
            return None
        self.pulse = Pulse.AWAKE
        return self.wave

    def on_ring(self, wave: int) -> None:
        """Wake up for a wave that another rank has begun; one that is over is forgotten."""
        assert wave <= self.wave, "a rank is ahead of a wave that this one has not ended"
        if wave == self.wave and self.pulse is Pulse.ASLEEP:
            self.pulse = Pulse.AWAKE

    def on_plan(self, plan: Plan) -> None:
        """Take note of what the ranks agreed on."""
        assert self.pulse is Pulse.AWAKE
        self._idle = self._idle + 1 if plan.is_empty else 0
        if plan.is_empty and plan.all_want_to_end:
            self.pulse = Pulse.ENDED
        elif self._idle >= self._idle_steps:
            self.pulse = Pulse.ASLEEP
            self.wave += 1
            self._idle = 0
