"""The state that the handlers of one worker share, and the checks each of them makes first."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aiohttp import web

from ..config import WorkerConfig
from ..messages import EngineReady
from ..text.chat_template import ChatTemplate
from ..text.tokenizer import Tokenizer, load_tokenizer
from .engine_client import EngineClient, EngineState
from .errors import ApiError, unavailable
from .mailbox import Mailbox
from .metrics import Metrics
from .prompts import PromptReader
from .sampling import ModelLimits

TOKENIZER_THREADS = 2
MAX_REQUEST_ID_CHARS = 256


class Frontend:
    """One worker's HTTP side, without its sockets."""

    def __init__(self, config: WorkerConfig, tokenizer: Tokenizer, engine: EngineClient) -> None:
        self.config = config
        self.engine = engine
        self.tokenizer = tokenizer
        self.model_name = config.served_model_name or Path(config.model).name
        self.name = config.name or f"{config.host}:{config.port}"
        """Replaced by the real address once the port is known, unless one was configured."""
        self.started_at = int(time.time())
        self.metrics = Metrics(self.model_name, engine)
        self.draining = False
        self.idle = asyncio.Event()
        """Set while no generation request is in flight."""
        self.idle.set()
        self._in_flight = 0
        self._executor = ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="tokenize")
        self.prompts = PromptReader(tokenizer, _chat_template(tokenizer), self._executor)

    def set_address(self, host: str, port: int) -> None:
        """Tell where this worker listens; it is its name unless it was given one."""
        self.name = self.config.name or f"{host}:{port}"

    def require_ready(self) -> EngineReady:
        """Return the engine's facts. Raises `ApiError` 503 while it does not serve."""
        reason = self.not_ready_reason()
        if reason is not None:
            raise unavailable(f"this worker is not serving: {reason}", code=reason)
        assert self.engine.ready is not None
        return self.engine.ready

    def not_ready_reason(self) -> str | None:
        """Return why requests are refused now, or None."""
        if self.draining:
            return "draining"
        if self.engine.state is EngineState.READY:
            return None
        return "loading" if self.engine.state is EngineState.LOADING else "engine_lost"

    def limits(self) -> ModelLimits:
        """Return what bounds a request. Raises `ApiError` 503 while the engine is not ready."""
        ready = self.require_ready()
        return ModelLimits(
            max_model_len=ready.max_model_len,
            vocab_size=ready.vocab_size,
            eos_token_ids=self.tokenizer.eos_token_ids,
        )

    def check_model(self, model: str | None) -> None:
        """Raise `ApiError` 404 for any other model than the one served."""
        if model is not None and model != self.model_name:
            raise ApiError(404, f"The model `{model}` does not exist.", param="model", code="model_not_found")

    @contextlib.contextmanager
    def admitted(self, http: web.Request) -> Iterator[Mailbox]:
        """Count a generation request in, and abort what of it still runs when the handler is left."""
        self.require_ready()
        mailbox = self.engine.open_mailbox(external_id_of(http))
        self._in_flight += 1
        self.idle.clear()
        try:
            yield mailbox
        finally:
            self.engine.close(mailbox)
            self._in_flight -= 1
            if self._in_flight == 0:
                self.idle.set()

    def close(self) -> None:
        """Release the tokenizer threads."""
        self._executor.shutdown(wait=False, cancel_futures=True)


FRONTEND = web.AppKey("frontend", Frontend)


def open_tokenizer(config: WorkerConfig) -> Tokenizer:
    """Load the tokenizer and check that the chat template compiles. Raises a `ValueError` naming the file."""
    tokenizer = load_tokenizer(Path(config.model))
    _chat_template(tokenizer)
    return tokenizer


def external_id_of(http: web.Request) -> str:
    """Return the client's X-Request-Id, or a fresh id. Raises `ApiError` for one that is no sane id."""
    given = http.headers.get("X-Request-Id")
    if not given:
        return uuid.uuid4().hex
    if len(given) > MAX_REQUEST_ID_CHARS or not given.isascii() or not given.isprintable():
        raise ApiError(
            400,
            f"`X-Request-Id`: expected at most {MAX_REQUEST_ID_CHARS} printable ASCII characters",
            param="X-Request-Id",
        )
    return given


def _chat_template(tokenizer: Tokenizer) -> ChatTemplate | None:
    settings = tokenizer.settings
    if settings.chat_template is None:
        return None
    return ChatTemplate(settings.chat_template, bos_token=settings.bos_token, eos_token=settings.eos_token)
