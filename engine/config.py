"""Configuration of one worker process, from flags or a YAML file. Every default stands here, once."""

import enum
from typing import Annotated

import msgspec


class Role(enum.Enum):
    """Which half of the serving a worker is scheduled for; either can serve a whole request."""

    PREFILL = "prefill"
    DECODE = "decode"


class Transport(enum.Enum):
    """How KV blocks travel."""

    NIXL = "nixl"
    UCXX = "ucxx"
    SOCKET = "socket"


class Verify(enum.Enum):
    """What a pull checks besides the lease."""

    OFF = "off"
    CRC = "crc"


class KvTransferConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The KV side of a worker."""

    transport: Transport = Transport.NIXL
    host: str = "127.0.0.1"
    """Address the control channel listens on and advertises."""
    port: int = 0
    """0: a free port."""
    lease_ttl_s: float = 30.0
    lease_margin_s: float = 1.0
    """Bytes count only if the transfer is done this long before the lease could end."""
    pull_timeout_s: float = 20.0
    """A pull that takes longer fails; its blocks stay quarantined until the transfer is terminal."""
    verify: Verify = Verify.OFF


class KvEventsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Publishing of KV events (vLLM's schema); off without an endpoint."""

    endpoint: str | None = None
    """ZMQ PUB endpoint, e.g. `tcp://*:5557`."""
    replay_endpoint: str | None = None
    """ZMQ ROUTER endpoint that answers replays."""
    topic: str = ""
    buffer_steps: int = 10_000


class MoeBackendName(enum.Enum):
    """How tokens travel to experts on other ranks."""

    ALLGATHER_REDUCESCATTER = "allgather_reducescatter"
    ALL_TO_ALL = "all_to_all"
    DEEPEP_HIGH_THROUGHPUT = "deepep_high_throughput"
    DEEPEP_LOW_LATENCY = "deepep_low_latency"
    DEEPEP_ELASTIC = "deepep_elastic"


class OverlapConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a step is computed in two halves, the transfers of one under the computation of the other.

    It pays where transfers take about as long as computing; each half reads all weights again.
    """

    decode_rows: Annotated[int, msgspec.Meta(ge=2)] | None = None
    """Every rank must have so many rows; 32 suits GPUs. Absent: never."""
    prompt_tokens: Annotated[int, msgspec.Meta(ge=2)] | None = None
    """Every rank must have so many tokens; 512 suits GPUs. Absent: never."""


class RanksConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A worker's place among those that share the experts of one model."""

    rank: Annotated[int, msgspec.Meta(ge=0)]
    size: Annotated[int, msgspec.Meta(ge=1)]
    host: str = "127.0.0.1"
    """Address of rank 0, the same for all ranks."""
    port: int
    """Where the ranks meet, the same for all."""
    moe_backend: MoeBackendName | None = None
    """Absent: on GPUs DeepEP, high throughput on a prefill worker and low latency on a decode worker; on a
    CPU `all_to_all`."""
    fp8_dispatch: bool = False
    """DeepEP sends rows to experts in block-FP8."""
    redundant_experts: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Slots for experts beyond one each, over all ranks; the busiest experts are replicated into them."""
    balance_interval_steps: Annotated[int, msgspec.Meta(ge=1)] | None = 3000
    """Experts are placed anew every so many steps; none: never. Without redundant experts, never too."""
    balance_window_steps: Annotated[int, msgspec.Meta(ge=1)] = 1000
    """By the load of so many steps before."""
    overlap: OverlapConfig = OverlapConfig()
    nodes: Annotated[int, msgspec.Meta(ge=1)] = 1
    """Hosts that the ranks are spread over, alike."""
    timeout_s: float = 300.0
    """A rank that is not heard of for so long fails the group; it covers the loading of the weights."""
    idle_steps: Annotated[int, msgspec.Meta(ge=1)] = 16
    """Ranks fall asleep after so many agreements in a row that none of them has work."""

    def __post_init__(self) -> None:
        """Refuse a rank that is not in the group."""
        if self.rank >= self.size:
            raise ValueError(f"rank {self.rank} is not below size {self.size}")


class GraphsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Steps captured at the start as CUDA graphs, so that a GPU does not wait for Python."""

    batch_sizes: list[Annotated[int, msgspec.Meta(ge=1)]] | None = None
    """Rows of decode batches; absent: all of `bucket_sizes` up to 512; empty: none."""
    prompt_sizes: list[Annotated[int, msgspec.Meta(ge=1)]] | None = None
    """Prompt tokens of a step, padded to the next of these; more run without graphs. Absent: 64, 128, 256 and
    512 on a prefill worker, none on a decode worker; empty: none."""
    rehearse: bool = False
    """On a CPU: compute every step as a GPU would, and fail where a graph could not hold it. Slow."""


class SpeculativeMethod(enum.Enum):
    """Who guesses the tokens that a step checks."""

    MTP = "mtp"
    """The model's own multi-token prediction layer."""


class SpeculativeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Guessing tokens ahead, so that a step of the model may confirm several. Answers stay the same.

    Prefill and decode workers that exchange KV must both use it or neither: the draft has KV of its own.
    """

    method: SpeculativeMethod = SpeculativeMethod.MTP
    tokens: Annotated[int, msgspec.Meta(ge=1, le=3)] = 1
    """Guesses a step and sequence at most; the layer is applied so many times."""


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One worker: an HTTP port, an engine process, a KV pool."""

    model: str
    """Folder of a checkpoint in Hugging Face format."""
    role: Role
    host: str = "127.0.0.1"
    port: int = 0
    """HTTP port; 0: a free port."""
    name: str | None = None
    """Shown in reports and metrics; `host:port` when absent."""
    served_model_name: str | None = None
    """Model id in the API; the folder's name when absent."""
    device: str = "cpu"
    """`cpu` or `cuda`."""
    dtype: str | None = None
    """`float32`, `bfloat16` or `float16`; absent: the checkpoint's on a GPU, float32 on a CPU."""
    keep_fp8: bool | None = None
    """Keep block-FP8 weights as they are, not expanded to `dtype`; absent: on Hopper and later GPUs."""
    fp8_kv: bool = False
    """Store KV as float8_e4m3fn: half the bytes of bfloat16 in the pool and on the wire, at some loss of
    accuracy. Workers that exchange KV must agree."""
    threads: int | None = None
    """Compute threads of the engine; absent: torch's choice."""
    decode_threads: int | None = None
    """Threads of a decode step; absent: all, but without compiled operations one fewer for up to 15 rows, as
    the frontend is busy meanwhile."""
    kv_cache_bytes: int = 256 * 1024 * 1024
    """Size of the KV pool. On a CPU, copies of what is being decoded may take half as much again."""
    num_blocks: int | None = None
    """Overrides `kv_cache_bytes`; includes the null block."""
    block_tokens: int = 64
    max_model_len: int | None = None
    """Absent: `max_position_embeddings` of the model."""
    max_num_seqs: int = 64
    """Sequences in a decode step at most."""
    max_batched_tokens: int = 2048
    """Prompt tokens a step at most."""
    max_waiting: int = 1024
    """Requests waiting at most; more are refused as overloaded."""
    bucket_sizes: list[int] | None = None
    """Decode batch sizes in rows; absent: 1, 2, 4, 8, 16, 24, 32, ... up to the most rows there can be."""
    run_ahead: bool | None = None
    """Decide a step while the one before it is computed; absent: on GPUs, where there is time to be won.
    Not with `speculative`: there a step must know how many guesses of the one before were right."""
    prefix_cache: bool = True
    max_body_bytes: int = 16 * 1024 * 1024
    drain_grace_s: float = 30.0
    stats_interval_s: float = 1.0
    kv_transfer: KvTransferConfig = KvTransferConfig()
    kv_events: KvEventsConfig = KvEventsConfig()
    graphs: GraphsConfig = GraphsConfig()
    """Without effect on a CPU, unless they are rehearsed."""
    ranks: RanksConfig | None = None
    """Absent: this worker holds all experts, unless it joins others."""
    join: str | None = None
    """URL of a worker whose ranks this one joins while they serve; `ranks` then comes from them."""
    speculative: SpeculativeConfig | None = None
    """Absent: every step gives a sequence one token."""

    @property
    def runs_ahead(self) -> bool:
        """Whether a step is decided while the one before it is computed."""
        if self.run_ahead is None:
            return self.device == "cuda" and self.speculative is None
        return self.run_ahead

    @property
    def draft_tokens(self) -> int:
        """Guesses a step and sequence at most."""
        return 0 if self.speculative is None else self.speculative.tokens

    @property
    def max_decode_rows(self) -> int:
        """Rows of a decode step at most: each sequence's next token and its guesses."""
        return self.max_num_seqs * (1 + self.draft_tokens)

    def __post_init__(self) -> None:
        """Refuse settings that exclude each other."""
        if self.join is not None and self.ranks is not None:
            raise ValueError("join cannot be used with ranks: a newcomer gets its place from those it joins")
        if (self.ranks or self.join) is not None and self.speculative is not None:
            raise ValueError("speculative cannot be used with ranks: they do not draft together")
        if self.run_ahead and self.speculative is not None:
            raise ValueError(
                "speculative cannot be used with run_ahead: a step's tokens are not known before"
            )
