"""Messages between a worker's frontend process and its engine process, msgpack over one ZMQ pair.

Frontend -> engine: `Generate`, `Abort`, `ConnectPeer`, `CheckIntegrity`, `LeaveRanks`, `Shutdown`.
Engine -> frontend: `Loading`, `EngineReady`, `StepOutputs` (all sequences of one step in one message),
`RequestDone`, `RequestFailed`, `PeerResult`, `IntegrityReport`, `EngineStats`, `LeaveResult`.
"""

import enum

import msgspec

from ..kvtransfer.params import KvTransferParams


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How to choose tokens; the frontend has validated the ranges."""

    max_tokens: int
    """At most this many tokens a choice; already clipped to what the model's context allows."""
    min_tokens: int = 0
    """Stop tokens are masked out until this many tokens were generated."""
    temperature: float = 1.0
    """0 means greedy."""
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    """Includes the model's end-of-sequence ids unless `ignore_eos`; the stop token itself is reported but is
    not text."""
    ignore_eos: bool = False
    logprobs: int | None = None
    """None: no logprobs. n: the chosen token's logprob and the n best."""


class Generate(msgspec.Struct, frozen=True, kw_only=True, tag="generate"):
    """Run one request: `n` choices from one prompt."""

    request_id: str
    """Unique in this worker's life (the client's X-Request-Id plus a random suffix)."""
    external_id: str
    """The X-Request-Id; `Abort` by it reaches every request and lease that carries it."""
    prompt_token_ids: list[int]
    sampling: SamplingParams
    n: int = 1
    kv_transfer: KvTransferParams | None = None
    cache_salt: str = ""


class Abort(msgspec.Struct, frozen=True, kw_only=True, tag="abort"):
    """End one choice, or all of a request when `choice` is None, without further output."""

    request_id: str
    choice: int | None = None


class AbortExternal(msgspec.Struct, frozen=True, kw_only=True, tag="abort_external"):
    """End every request with this external id and release its leases; answered by `AbortResult`."""

    call_id: str
    external_id: str


class ConnectPeer(msgspec.Struct, frozen=True, kw_only=True, tag="connect_peer"):
    """Shake hands with a prefill worker's control channel; answered by `PeerResult`."""

    call_id: str
    host: str
    port: int


class CheckIntegrity(msgspec.Struct, frozen=True, kw_only=True, tag="check_integrity"):
    """Run the self-check between two steps; answered by `IntegrityReport`."""

    call_id: str


class Shutdown(msgspec.Struct, frozen=True, kw_only=True, tag="shutdown"):
    """Finish what runs for at most `grace_s`, wait for leases likewise, then exit."""

    grace_s: float


class LeaveRanks(msgspec.Struct, frozen=True, kw_only=True, tag="leave_ranks"):
    """Let the other ranks get ready to go on without this one; `Shutdown` follows when no request is left.

    What still runs after its grace is failed then, and `LeaveResult` tells whether the others could.
    """


FrontendMessage = Generate | Abort | AbortExternal | ConnectPeer | CheckIntegrity | LeaveRanks | Shutdown


class FinishReason(enum.Enum):
    """Why a choice ended, in OpenAI's words."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


class TopLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate token and its log probability (natural log, before sampling filters)."""

    token_id: int
    logprob: float


class TokenLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """The chosen token's log probability and the best candidates, best first."""

    token_id: int
    logprob: float
    top: list[TopLogprob]


class SequenceOutput(msgspec.Struct, frozen=True, kw_only=True):
    """New tokens of one choice of one request."""

    request_id: str
    choice: int
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None = None
    finish: FinishReason | None = None
    stop_token_id: int | None = None
    """The stop token that ended the choice; it is the last of `token_ids`."""


class StepOutputs(msgspec.Struct, frozen=True, kw_only=True, tag="step_outputs"):
    """What one engine step produced, for all requests."""

    outputs: list[SequenceOutput]


class PhaseTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time before the first token went; None where a phase did not happen."""

    queue_s: float | None = None
    """Arrival to the first scheduled work (or the pull's start)."""
    prefill_s: float | None = None
    """First chunk to the last prompt token computed, on this worker."""
    transfer_s: float | None = None
    """Start of the pull to verified blocks."""
    first_step_s: float | None = None
    """Blocks there to the first sampled token."""


class FirstToken(msgspec.Struct, frozen=True, kw_only=True, tag="first_token"):
    """Facts known once a request's first token is sampled; sent before or with its `StepOutputs`."""

    request_id: str
    cached_tokens: int
    """Prompt tokens served from this worker's prefix cache or pulled from the prefill worker's cache hit."""
    kv_bytes: int
    """Bytes pulled from the prefill worker."""
    phases: PhaseTimes
    recomputed: bool = False
    """A remote prefill was asked for but its KV could not be used; this worker computed the prompt."""


class RequestDone(msgspec.Struct, frozen=True, kw_only=True, tag="request_done"):
    """All choices have ended and everything the request held is accounted for (freed or leased)."""

    request_id: str
    kv_transfer: KvTransferParams | None = None
    """The offer, when the request asked for `do_remote_decode`."""


class FailureKind(enum.Enum):
    """Whose fault a failed request is; decides the HTTP status."""

    BAD_REQUEST = "bad_request"
    OVERLOADED = "overloaded"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


class RequestFailed(msgspec.Struct, frozen=True, kw_only=True, tag="request_failed"):
    """A request ended without a complete answer; nothing of it is left behind."""

    request_id: str
    kind: FailureKind
    message: str
    param: str | None = None


class AbortResult(msgspec.Struct, frozen=True, kw_only=True, tag="abort_result"):
    """How many requests and leases an `AbortExternal` ended."""

    call_id: str
    aborted: int
    released: int


class PeerResult(msgspec.Struct, frozen=True, kw_only=True, tag="peer_result"):
    """Outcome of `ConnectPeer`: the peer's incarnation, or an error."""

    call_id: str
    incarnation: str | None
    error: str | None


class BlockCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Where the pool's blocks are; they must add up: free + cached + in_use + quarantined = total."""

    free: int
    cached: int
    in_use: int
    quarantined: int
    total: int


class IntegrityReport(msgspec.Struct, frozen=True, kw_only=True, tag="integrity_report"):
    """Result of the self-check; `problems` is empty when all invariants hold."""

    call_id: str
    problems: list[str]
    blocks: BlockCounts
    leases: int
    pulls: int
    requests: int


class Loading(msgspec.Struct, frozen=True, kw_only=True, tag="loading"):
    """Progress of loading: `done` of `total` bytes (or steps) of `stage`."""

    stage: str
    done: int
    total: int


class EngineReady(msgspec.Struct, frozen=True, kw_only=True, tag="engine_ready"):
    """The model is loaded, the pool registered, the control channel open."""

    incarnation: str
    kv_host: str
    kv_port: int
    max_model_len: int
    num_blocks: int
    block_tokens: int
    block_bytes: int
    bucket_sizes: list[int]
    """What decode batches are padded to; empty: to nothing."""
    captured_batch_sizes: list[int] = []
    """Those that are replayed as CUDA graphs."""
    vocab_size: int
    lockstep_group: str | None = None
    """Shared by the ranks that take every step together; none: a worker by itself."""


class ExpertBalance(msgspec.Struct, frozen=True, kw_only=True):
    """Mean over maximum of the ranks' loads with routed tokens, itself a mean over layers: 1 is even."""

    measured: float
    """In the window before experts were last placed."""
    planned: float
    """What that placement was to make of the same load."""


class MeetingPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where ranks keep the store that they met by."""

    host: str
    port: int


class RankStanding(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's place among its ranks now."""

    rank: int
    size: int
    meeting: MeetingPlace
    """Newcomers ask there."""


class EngineStats(msgspec.Struct, frozen=True, kw_only=True, tag="engine_stats"):
    """Gauges and counters since the start, sent at most every `stats_interval_s` and after idling begins."""

    running: int
    waiting: int
    waiting_for_kv: int
    kv_usage: float
    prefix_queries_tokens: int
    prefix_hits_tokens: int
    prompt_tokens: int
    prompt_tokens_local_compute: int
    prompt_tokens_local_cache: int
    prompt_tokens_pulled: int
    generated_tokens: int
    preemptions: int
    steps: int
    leases: int
    leases_expired: int
    pulls: int
    pulls_failed: dict[str, int]
    kv_bytes_pulled: int
    peers: list[str]
    blocks: BlockCounts
    expert_balance: ExpertBalance | None = None
    """Absent before experts were placed by load."""
    ranks: RankStanding | None = None
    """Absent: a worker by itself, or a group that cannot change."""
    drafts: int = 0
    """Chains of guesses that a step checked."""
    draft_tokens: int = 0
    accepted_tokens: list[int] = []
    """Right guesses by their place in the chain."""


class LeaveResult(msgspec.Struct, frozen=True, kw_only=True, tag="leave_result"):
    """What has become of `LeaveRanks`, where there are ranks to leave."""

    stays_because: str | None = None
    """The group could not change; the engine serves on as before. None: it has left, and ends."""


class EngineFatal(msgspec.Struct, frozen=True, kw_only=True, tag="engine_fatal"):
    """The engine cannot start or go on; the frontend reports `message` and exits."""

    message: str


EngineMessage = (
    Loading
    | EngineReady
    | StepOutputs
    | FirstToken
    | RequestDone
    | RequestFailed
    | AbortResult
    | PeerResult
    | IntegrityReport
    | EngineStats
    | LeaveResult
    | EngineFatal
)
