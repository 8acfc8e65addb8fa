"""Fields of the dialect that Baton does not serve: refused by name, because an answer that ignores them would
be wrong. A value that asks for nothing (null, false, the default) is let through.
"""

import msgspec

from .errors import ApiError, bad_field
from .sampling import is_prefill_leg
from .schema import ChatRequest, CompletionRequest, GenerationRequest

_COMMON = """
    use_beam_search prompt_logprobs truncate_prompt_tokens allowed_token_ids bad_words structured_outputs
    guided_json guided_regex guided_choice guided_grammar logits_processors
""".split()
_COMPLETION = ["suffix", "prompt_embeds"]
_CHAT = ["functions", "function_call", "continue_final_message", "chat_template", "audio"]


def refuse_unsupported(request: GenerationRequest) -> None:
    """Raise `ApiError` 400 naming the first field that asks for what is not served."""
    fields = list(_COMMON)
    if isinstance(request, CompletionRequest):
        fields += _COMPLETION
    if isinstance(request, ChatRequest):
        fields += _CHAT
    values = msgspec.structs.asdict(request)
    for field in fields:
        if values[field] is not None and values[field] is not False:
            raise _not_supported(field)
    _refuse_special_values(request)
    if isinstance(request, ChatRequest):
        _refuse_chat_values(request)


def _refuse_special_values(request: GenerationRequest) -> None:
    if request.best_of is not None and request.best_of != (request.n or 1):
        raise _not_supported("best_of")
    if request.response_format is not None and request.response_format.type != "text":
        raise bad_field(
            "response_format", f"type {request.response_format.type!r} is not supported, only 'text'"
        )
    if request.stream_options is not None:
        if not request.stream and not is_prefill_leg(request):
            raise bad_field("stream_options", "only allowed together with `stream: true`")
        if request.stream_options.continuous_usage_stats:
            raise bad_field("stream_options", "continuous_usage_stats is not supported")


def _refuse_chat_values(request: ChatRequest) -> None:
    if request.modalities is not None and request.modalities != ["text"]:
        raise bad_field("modalities", "only ['text'] is supported")
    if request.tool_choice not in (None, "none", "auto"):
        raise bad_field("tool_choice", "forcing a tool call is not supported, only 'none'")
    if request.tools and request.tool_choice != "none":
        raise bad_field(
            "tools",
            'calls in the answer are not parsed; send `tool_choice: "none"` to show the tools to the model',
        )


def _not_supported(field: str) -> ApiError:
    return bad_field(field, "this field is not supported")
