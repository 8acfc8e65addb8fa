"""vLLM's `/tokenize` and `/detokenize`."""

import msgspec
from aiohttp import web

from .bodies import json_response, read_request
from .errors import ApiError, bad_field
from .frontend import FRONTEND, Frontend
from .schema import DetokenizeRequest, TokenizeRequest

_TOKENIZE = msgspec.json.Decoder(TokenizeRequest)
_DETOKENIZE = msgspec.json.Decoder(DetokenizeRequest)


class TokenizeResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The ids of a text."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The text of ids."""

    prompt: str


async def tokenize(http: web.Request) -> web.Response:
    """`POST /tokenize`: a prompt, or messages through the chat template."""
    frontend = http.app[FRONTEND]
    limits = frontend.limits()
    request = await read_request(http, _TOKENIZE, max_bytes=frontend.config.max_body_bytes)
    frontend.check_model(request.model)
    tokens = await _tokens(frontend, request)
    strings = [frontend.tokenizer.token_string(token) for token in tokens]
    return json_response(
        TokenizeResponse(
            count=len(tokens),
            max_model_len=limits.max_model_len,
            tokens=tokens,
            token_strs=strings if request.return_token_strs else None,
        )
    )


async def detokenize(http: web.Request) -> web.Response:
    """`POST /detokenize`."""
    frontend = http.app[FRONTEND]
    request = await read_request(http, _DETOKENIZE, max_bytes=frontend.config.max_body_bytes)
    frontend.check_model(request.model)
    size = frontend.tokenizer.vocab_size
    if request.tokens and (min(request.tokens) < 0 or max(request.tokens) >= size):
        raise bad_field("tokens", f"a token id is outside the vocabulary of {size}")
    text = frontend.tokenizer.decode(request.tokens, skip_special_tokens=False)
    return json_response(DetokenizeResponse(prompt=text))


async def _tokens(frontend: Frontend, request: TokenizeRequest) -> list[int]:
    if request.messages is not None:
        text = frontend.prompts.render(
            request.messages,
            tools=request.tools,
            add_generation_prompt=request.add_generation_prompt is not False,
            extra=request.chat_template_kwargs,
        )
        return await frontend.prompts.encode(text, add_special_tokens=bool(request.add_special_tokens))
    if request.prompt is None:
        raise ApiError(400, "`prompt`: either this field or `messages` is required", param="prompt")
    add_special_tokens = request.add_special_tokens is not False
    return await frontend.prompts.encode(request.prompt, add_special_tokens=add_special_tokens)
