"""A request and its sequences: what the schedulers keep of each. Few fields are stored, the rest is derived.

A request begins as one sequence, the trunk, that stands for all its `n` choices. Once the first token is
sampled, the trunk forks into one sequence a choice; they share the prompt's blocks.

    WAITING --admitted--> PREFILL --one token left--> DECODE --stop--> ENDED
    WAITING --pull starts--> PULLING --verified--> READY --seat free--> DECODE     (decode worker)
    PREFILL, READY, DECODE --preempted--> WAITING     PULLING --failed--> WAITING
"""

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..kvtransfer.params import KvTransferParams
from .messages import Generate, SamplingParams

if TYPE_CHECKING:
    from .sampling_state import SamplingState


class Stage(enum.Enum):
    """Where a sequence stands; the scheduler keeps it in the list of that name."""

    WAITING = "waiting"
    PULLING = "pulling"
    """Its blocks belong to a transfer."""
    READY = "ready"
    """Its blocks are verified, it waits for a row in the decode batch."""
    PREFILL = "prefill"
    DECODE = "decode"
    ENDED = "ended"


@dataclass(slots=True)
class Timeline:
    """When things happened to a request, in seconds of the engine's clock, and what came over the wire."""

    arrived_at: float
    admitted_at: float | None = None
    """First scheduled work, or the start of the pull."""
    prefill_started_at: float | None = None
    kv_ready_at: float | None = None
    """KV of the prompt is there, computed or pulled."""
    transfer_s: float | None = None
    cached_tokens: int = 0
    pulled_tokens: int = 0
    kv_bytes: int = 0


@dataclass(slots=True, eq=False)
class Request:
    """One `Generate` in progress."""

    generate: Generate
    number: int
    """Order of arrival; lower ones are served first and preempted last."""
    timeline: Timeline
    sequences: list["Sequence"] = field(default_factory=list)
    """Those that have not ended."""
    kv_source: KvTransferParams | None = None
    """The prompt's KV lies with this prefill worker and was not pulled yet; None once pulled or given up."""
    recomputed: bool = False
    """A remote prefill was asked for, but its KV could not be used."""
    offer: KvTransferParams | None = None
    """What the answer offers to a decode worker."""
    first_token_sent: bool = False
    sampling_states: dict[int, "SamplingState"] = field(default_factory=dict)
    """By choice; made by the runner at the first draw."""
    fallback_seed: int | None = None
    """Drawn once for requests without a seed of their own."""

    @property
    def id(self) -> str:
        """The request id, unique in this process's life."""
        return self.generate.request_id

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return len(self.generate.prompt_token_ids)

    def forget_kv(self) -> None:
        """Note that the prompt's KV was lost or never came; no effect once a token was sampled."""
        if self.first_token_sent:
            return
        self.recomputed = self.recomputed or self.kv_source is not None or self.timeline.pulled_tokens > 0
        self.kv_source = None
        self.timeline.pulled_tokens = 0
        self.timeline.kv_ready_at = None


@dataclass(slots=True, eq=False)
class Sequence:
    """Tokens of one choice (or of the trunk) and the blocks that hold their KV."""

    request: Request
    choices: list[int]
    """The choices it stands for: several before the fork, one after."""
    tokens: list[int]
    stage: Stage = Stage.WAITING
    blocks: list[int] = field(default_factory=list)
    num_computed: int = 0
    """KV of the first so many tokens is in the blocks, or will be when the steps in flight have landed."""
    num_in_flight: int = 0
    """The part of `num_computed` that steps in flight compute."""
    digests: list[bytes] = field(default_factory=list)
    """Chained hashes of the leading full blocks, as far as they were needed."""
    num_published: int = 0
    """Leading blocks that the prefix cache knows."""
    drafts: list[int] = field(default_factory=list)
    """Guesses at the tokens after the last one, for the next step to check."""
    row: int = 0
    """Place in the scheduler's decode list while the stage is DECODE."""

    @property
    def uncomputed(self) -> int:
        """Known tokens whose KV is not computed; one means the sequence is ready to decode."""
        return len(self.tokens) - self.num_computed

    @property
    def num_written(self) -> int:
        """Tokens whose KV is in the blocks."""
        return self.num_computed - self.num_in_flight

    @property
    def generated(self) -> int:
        """Tokens sampled so far."""
        return len(self.tokens) - self.request.prompt_tokens

    @property
    def order(self) -> tuple[int, int]:
        """Age: smaller is older."""
        return (self.request.number, self.choices[0])


def new_request(generate: Generate, number: int, now: float) -> Request:
    """Return a request with its trunk, waiting."""
    request = Request(generate=generate, number=number, timeline=Timeline(arrived_at=now))
    trunk = Sequence(request=request, choices=list(range(generate.n)), tokens=list(generate.prompt_token_ids))
    request.sequences.append(trunk)
    return request


def null_sequence(*, max_tokens: int, computed: int) -> Sequence:
    """Return two tokens in the null block, the first `computed` of them computed."""
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0)
    generate = Generate(request_id="", external_id="", prompt_token_ids=[0, 0], sampling=sampling)
    [sequence] = new_request(generate, 0, 0.0).sequences
    sequence.blocks, sequence.num_computed = [0, 0], computed
    return sequence
