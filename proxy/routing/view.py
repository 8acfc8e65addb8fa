"""What a policy may know of a request. It holds no socket, so a simulator can make one too."""

from dataclasses import dataclass, field

from .prefix_index import PrefixMatch


@dataclass(slots=True)
class RequestView:
    """One request as the routing sees it. Token counts are estimates from bytes; nothing is tokenised."""

    request_id: str
    model: str
    prompt_tokens: int
    """Estimate of the prompt's length."""
    output_tokens: int
    """Estimate of the answer's length: the client's limit, or a default."""
    prompt: bytes | memoryview = b""
    """The prompt's or the messages' JSON bytes as they arrived."""
    answers: int = 1
    """How many answers to the one prompt are asked for."""
    wire_id: str = ""
    """The id that its workers know the attempt under way by; empty before the first."""
    session: bytes = b""
    """The client's name for what its requests belong to; empty: it gave none."""
    decode_only: bool = False
    """The request cannot be split over two workers (several prompts, logprobs of the prompt)."""
    tried_prefill: set[str] = field(default_factory=set)
    """Prefill workers that failed this request: not to be chosen again."""
    tried_decode: set[str] = field(default_factory=set)
    """Decode workers that failed this request: not to be chosen again."""
    prefix_keys: list[int] | None = None
    """Keys of the prompt's leading chunks, by `prefix_index.prefix_keys`; None until first needed."""
    key_tokens: float = 0.0
    """Prompt tokens that one of `prefix_keys` stands for."""
    prefix_match: PrefixMatch | None = None
    """Who held how much of it when that was last asked."""
