"""What is asked for: prompt sizes, numbers of chunks and their spacing, connections."""

import enum
import random

import msgspec

GROUP_PLACE = "A" * 16
NUMBER_PLACE = "B" * 16
"""Replaced by the load generator in every request; see load.c."""
SEED = 7


class Unit(enum.Enum):
    """What CPU time is divided by where a target is checked."""

    REQUEST = "request"
    CHUNK = "chunk"


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of traffic: a closed loop of streamed chat requests."""

    name: str
    prompt_bytes: int
    connections: int
    chunks: int = 1
    interval_us: int = 0
    """Between the chunks of a stream; 0: back to back, each sent for itself."""
    unit: Unit = Unit.REQUEST
    required: bool = False
    """Whether the target counts it."""
    once: bool = False
    """One request per connection, all open at the same time, then ended: memory is what is measured."""
    path: str = "/v1/chat/completions"

    def body(self) -> bytes:
        """Return the request body, of `prompt_bytes` of prompt, with the places that make it distinct."""
        half = max(self.prompt_bytes // 2 - len(GROUP_PLACE) - 1, 0)
        rng = random.Random(SEED)
        prompt = f"{GROUP_PLACE} {words(rng, half)}{NUMBER_PLACE} {words(rng, half)}"
        return msgspec.json.encode(
            {
                "model": "mock",
                "stream": True,
                "max_tokens": self.chunks,
                "temperature": 0.7,
                "messages": [{"role": "user", "content": prompt}],
            }
        )


def words(rng: random.Random, length: int) -> str:
    """Return `length` characters of made-up words."""
    words: list[str] = []
    missing = length
    while missing > 0:
        word = "".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9)))
        words.append(word)
        missing -= len(word) + 1
    return " ".join([*words, ""])[:length]


WORKLOADS = (
    Workload(name="req200", prompt_bytes=200, connections=32, required=True),
    Workload(name="req8k", prompt_bytes=8 * 1024, connections=32, required=True),
    Workload(name="req64k", prompt_bytes=64 * 1024, connections=32, required=True),
    Workload(name="sp32", prompt_bytes=200, connections=32, chunks=128, interval_us=5000, unit=Unit.CHUNK),
    Workload(
        name="sp256",
        prompt_bytes=200,
        connections=256,
        chunks=128,
        interval_us=5000,
        unit=Unit.CHUNK,
        required=True,
    ),
    Workload(name="b2b128", prompt_bytes=200, connections=32, chunks=128, unit=Unit.CHUNK),
    Workload(
        name="open5000", prompt_bytes=200, connections=5000, chunks=1000, interval_us=2_000_000, once=True
    ),
)
