"""OpenAI's endpoints: completions, chat completions, models."""

import time

import msgspec
from aiohttp import web

from .answer import Answer, AnswerId
from .bodies import json_response, read_request
from .chat_answer import ChatAnswer
from .completion_answer import CompletionAnswer
from .frontend import FRONTEND, Frontend
from .generate import generate
from .generation import Plan
from .handover import check_handover
from .sampling import ModelLimits, check_sampling
from .schema import ChatRequest, CompletionRequest, GenerationRequest
from .unsupported import refuse_unsupported

_COMPLETION = msgspec.json.Decoder(CompletionRequest)
_CHAT = msgspec.json.Decoder(ChatRequest)


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `/v1/models`."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "baton"
    root: str
    parent: None = None
    max_model_len: int


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /v1/models`."""

    object: str = "list"
    data: list[ModelCard]


async def completions(http: web.Request) -> web.StreamResponse:
    """`POST /v1/completions`."""
    frontend, arrived_at = http.app[FRONTEND], time.monotonic()
    with frontend.admitted(http) as mailbox:
        request = await read_request(http, _COMPLETION, max_bytes=frontend.config.max_body_bytes)
        limits = _checked(frontend, request)
        prompts = await frontend.prompts.of_completion(request, limits)
        answer: Answer = CompletionAnswer(
            _answer_id(frontend, f"cmpl-{mailbox.external_id}"),
            frontend.tokenizer,
            logprobs=request.logprobs is not None,
            token_ids=bool(request.return_token_ids),
            echo=bool(request.echo),
        )
        plan = Plan(request=request, prompts=prompts, limits=limits, arrived_at=arrived_at)
        return await generate(frontend, http, mailbox, plan, answer)


async def chat_completions(http: web.Request) -> web.StreamResponse:
    """`POST /v1/chat/completions`."""
    frontend, arrived_at = http.app[FRONTEND], time.monotonic()
    with frontend.admitted(http) as mailbox:
        request = await read_request(http, _CHAT, max_bytes=frontend.config.max_body_bytes)
        limits = _checked(frontend, request)
        prompt = await frontend.prompts.of_chat(request, limits)
        answer: Answer = ChatAnswer(
            _answer_id(frontend, f"chatcmpl-{mailbox.external_id}"),
            frontend.tokenizer,
            logprobs=bool(request.logprobs),
            token_ids=bool(request.return_token_ids),
        )
        plan = Plan(request=request, prompts=[prompt], limits=limits, arrived_at=arrived_at)
        return await generate(frontend, http, mailbox, plan, answer)


async def models(http: web.Request) -> web.Response:
    """`GET /v1/models`."""
    frontend = http.app[FRONTEND]
    card = ModelCard(
        id=frontend.model_name,
        created=frontend.started_at,
        root=frontend.config.model,
        max_model_len=frontend.limits().max_model_len,
    )
    return json_response(ModelList(data=[card]))


def _checked(frontend: Frontend, request: GenerationRequest) -> ModelLimits:
    """Make every check that needs no prompt. Raises `ApiError`."""
    limits = frontend.limits()
    frontend.check_model(request.model)
    refuse_unsupported(request)
    check_sampling(request, limits)
    check_handover(request.kv_transfer_params, prompts=1)
    return limits


def _answer_id(frontend: Frontend, answer_id: str) -> AnswerId:
    return AnswerId(id=answer_id, created=int(time.time()), model=frontend.model_name)
