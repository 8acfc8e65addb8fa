"""What a policy may know of a request. It holds no socket, so a simulator can make one too."""

from .prefix_index import PrefixMatch


class RequestView:
    """One request as the routing sees it. Token counts are estimates from bytes; nothing is tokenised."""

    __slots__ = (
        "answers", "decode_only", "key_tokens", "model", "output_tokens", "prefix_keys", "prefix_match",
        "prompt", "prompt_tokens", "request_id", "session", "tried_decode", "tried_prefill", "wire_id",
    )  # fmt: skip

    def __init__(
        self,
        request_id: str,
        model: str,
        prompt_tokens: int,
        output_tokens: int,
        prompt: bytes | memoryview = b"",
        *,
        answers: int = 1,
        session: bytes = b"",
        decode_only: bool = False,
        prefix_keys: list[int] | None = None,
        key_tokens: float = 0.0,
    ) -> None:
        self.request_id = request_id
        self.model = model
        self.prompt_tokens = prompt_tokens
        """Estimate of the prompt's length."""
        self.output_tokens = output_tokens
        """Estimate of the answer's length: the client's limit, or a default."""
        self.prompt = prompt
        """The prompt's or the messages' JSON bytes as they arrived."""
        self.answers = answers
        """How many answers to the one prompt are asked for."""
        self.wire_id = ""
        """The id that its workers know the attempt under way by; empty before the first."""
        self.session = session
        """The client's name for what its requests belong to; empty: it gave none."""
        self.decode_only = decode_only
        """The request cannot be split over two workers (several prompts, logprobs of the prompt)."""
        self.tried_prefill: set[str] = set()
        """Prefill workers that failed this request: not to be chosen again."""
        self.tried_decode: set[str] = set()
        """Decode workers that failed this request: not to be chosen again."""
        self.prefix_keys = prefix_keys
        """Keys of the prompt's leading chunks, by `prefix_index.prefix_keys`; None until first needed."""
        self.key_tokens = key_tokens
        """Prompt tokens that one of `prefix_keys` stands for."""
        self.prefix_match: PrefixMatch | None = None
        """Who held how much of it when that was last asked."""

    def anew(self) -> "RequestView":
        """Return the same request, tried nowhere yet."""
        return RequestView(
            self.request_id,
            self.model,
            self.prompt_tokens,
            self.output_tokens,
            self.prompt,
            answers=self.answers,
            session=self.session,
            decode_only=self.decode_only,
            prefix_keys=self.prefix_keys,
            key_tokens=self.key_tokens,
        )
