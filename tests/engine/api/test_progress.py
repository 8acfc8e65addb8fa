"""What becomes of the engine's outputs, choice by choice, without any process around."""

import pytest

from baton.engine.api.errors import ApiError
from baton.engine.api.progress import Delta, PromptProgress, TextOptions
from baton.engine.messages import (
    Abort,
    FinishReason,
    Generate,
    RequestDone,
    SamplingParams,
    SequenceOutput,
)
from baton.engine.text.checkpoint_files import TextSettings
from baton.engine.text.tokenizer import Tokenizer
from baton.kvtransfer.params import KvTransferParams
from support.tokenizers import EOS_ID, build_tokenizer

NO_SETTINGS = TextSettings(
    bos_token=None, eos_token=None, add_bos_token=None, eos_token_ids=(), chat_template=None
)
TOKENIZER = Tokenizer(build_tokenizer(), NO_SETTINGS)


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def progress(
    *, n: int = 1, min_tokens: int = 0, transfer: KvTransferParams | None = None, **options: object
) -> PromptProgress:
    generate = Generate(
        request_id="r",
        external_id="x",
        prompt_token_ids=[5],
        sampling=SamplingParams(max_tokens=50, min_tokens=min_tokens),
        n=n,
        kv_transfer=transfer,
    )
    text = TextOptions(**options)  # type: ignore[arg-type]
    return PromptProgress(generate, TOKENIZER, text, first_index=10, arrived_at=0.0)


def output(token_ids: list[int], *, choice: int = 0, finish: FinishReason | None = None) -> SequenceOutput:
    stop_token_id = token_ids[-1] if finish is FinishReason.STOP else None
    return SequenceOutput(
        request_id="r", choice=choice, token_ids=token_ids, finish=finish, stop_token_id=stop_token_id
    )


def feed(prompt: PromptProgress, *events: SequenceOutput) -> list[Delta]:
    deltas = [prompt.on_event(event, now=float(place)) for place, event in enumerate(events)]
    return [delta for delta in deltas if delta is not None]


def test_tokens_after_a_stop_string_in_the_same_step_are_dropped() -> None:
    prompt = progress(stops=("wo",))
    tokens = ids("one two three")

    (delta,) = feed(prompt, output(tokens))

    assert delta.text == "one t"
    assert delta.finish_reason == "stop"
    assert len(delta.token_ids) < len(tokens)
    assert prompt.completion_tokens == len(delta.token_ids)
    assert prompt.aborts == [Abort(request_id="r")]


def test_outputs_on_their_way_when_the_stop_string_was_found_are_ignored() -> None:
    prompt = progress(stops=("one",))

    deltas = feed(prompt, output(ids("one")), output(ids(" two")))

    assert [delta.text for delta in deltas] == [""]
    assert prompt.complete


def test_text_within_min_tokens_ends_nothing() -> None:
    tokens = ids("a b a b")
    prompt = progress(stops=("b",), min_tokens=len(tokens) - 1)

    deltas = feed(prompt, *[output([token]) for token in tokens])

    assert "".join(delta.text for delta in deltas) == "a b a "
    assert deltas[-1].finish_reason == "stop"


def test_held_back_text_is_shown_at_the_end() -> None:
    prompt = progress(stops=("onerous",))

    deltas = feed(prompt, output(ids("one")), output([EOS_ID], finish=FinishReason.STOP))

    assert [delta.text for delta in deltas] == ["", "one"]


def test_the_stop_token_is_counted_and_reported_but_is_no_text() -> None:
    prompt = progress(skip_special_tokens=False, asked_stop_token_ids=frozenset({EOS_ID}))

    (delta,) = feed(prompt, output([*ids("one"), EOS_ID], finish=FinishReason.STOP))

    assert (delta.text, delta.token_ids[-1], delta.stop_reason) == ("one", EOS_ID, EOS_ID)
    assert prompt.completion_tokens == len(ids("one")) + 1


def test_choices_stand_behind_those_of_earlier_prompts() -> None:
    prompt = progress(n=2)

    deltas = feed(prompt, output(ids("a"), choice=1), output(ids("b"), choice=0))

    assert [delta.index for delta in deltas] == [11, 10]


def test_an_offer_is_waited_for_also_after_a_stop_string() -> None:
    prompt = progress(stops=("one",), transfer=KvTransferParams(do_remote_decode=True))

    feed(prompt, output(ids("one")))

    assert prompt.aborts == [Abort(request_id="r", choice=0)]
    assert not prompt.complete
    prompt.on_event(RequestDone(request_id="r", kv_transfer=KvTransferParams()), now=9.0)
    assert prompt.complete
    assert prompt.offer == KvTransferParams()


def test_an_abort_by_the_engine_is_an_error() -> None:
    with pytest.raises(ApiError, match="aborted"):
        feed(progress(), output([], finish=FinishReason.ABORT))


def test_times_are_those_of_the_first_and_last_tokens() -> None:
    prompt = progress()

    feed(prompt, output([]), output(ids("a")), output(ids("b")))

    assert (prompt.first_token_at, prompt.last_token_at) == (1.0, 2.0)
