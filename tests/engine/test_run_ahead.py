"""A step launched before the one ahead of it has landed changes no token, and emits none too many."""

import pytest
import torch

from baton.engine.batch import DecodeBatch, PrefillBatch
from baton.engine.messages import Abort, FailureKind, Generate, SamplingParams
from baton.engine.runner import ModelRunner
from baton.engine.sequence import Sequence, new_request
from baton.engine.staging import DecodeStaging, PrefillStaging
from baton.engine.step import Chunk, Copy, Step
from baton.engine.threads import ComputeThreads
from support.fake_model import CONFIG, VOCABULARY, tokens_after
from support.fake_transfer import FakeNetwork
from support.fake_worker import FakeWorker, hand_over

PROMPT = [5, 9, 2, 7, 7, 1, 3]


class RandomModel:
    """Logits that depend on nothing, computed on a GPU."""

    config = CONFIG

    def prefill(self, batch: PrefillBatch, kv: torch.Tensor) -> torch.Tensor:
        return torch.rand(len(batch.logit_rows), VOCABULARY, device=kv.device)

    def decode(self, batch: DecodeBatch, kv: torch.Tensor) -> torch.Tensor:
        return torch.rand(len(batch.token_ids), VOCABULARY, device=kv.device)


def sequence_of(sampling: SamplingParams, *, n: int, computed: int) -> Sequence:
    generate = Generate(request_id="r", external_id="r", prompt_token_ids=PROMPT, sampling=sampling, n=n)
    [sequence] = new_request(generate, 1, 0.0).sequences
    sequence.blocks, sequence.num_computed = [1, 2], computed
    return sequence


def drawing(**settings: object) -> SamplingParams:
    return SamplingParams(max_tokens=12, temperature=1.0, seed=11, **settings)  # type: ignore[arg-type]


def drawn(sampling: SamplingParams, *, run_ahead: bool) -> list[list[int]]:
    worker = FakeWorker(run_ahead=run_ahead)
    for index in range(3):
        worker.submit(f"r{index}", PROMPT[index:], n=2 if index == 1 else 1, sampling=sampling)
        worker.turn()
    worker.run()
    return [worker.tokens_of(f"r{index}", choice) for index in range(3) for choice in range(2)]


@pytest.mark.parametrize(
    "sampling",
    [
        drawing(),
        drawing(top_p=0.6),
        drawing(frequency_penalty=1.5),
        drawing(repetition_penalty=1.4),
        drawing(min_tokens=5, stop_token_ids=tuple(range(VOCABULARY // 2))),
        drawing(stop_token_ids=tuple(range(0, VOCABULARY, 3))),
    ],
    ids=["drawn", "filtered", "counted", "repeated", "delayed", "stopped"],
)
def test_the_same_tokens_are_drawn_with_and_without(sampling: SamplingParams) -> None:
    assert drawn(sampling, run_ahead=True) == drawn(sampling, run_ahead=False)


def test_the_next_step_is_launched_before_the_last_one_has_landed() -> None:
    worker = FakeWorker(run_ahead=True)
    worker.submit("r", PROMPT, 6)
    launched_ahead = 0
    while worker.turn():
        # The first token came from the prompt: so many steps have computed a token that was not sent yet.
        launched_ahead += len(worker.model.decode_sizes) == len(worker.tokens_of("r"))
    assert launched_ahead > 2
    assert worker.tokens_of("r") == tokens_after(PROMPT, 6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU computes behind the host")
@pytest.mark.parametrize(
    "sampling",
    [
        drawing(),
        drawing(min_p=0.01),
        drawing(frequency_penalty=1.5),
        drawing(logit_bias={3: 2.0}, logprobs=2),
        SamplingParams(max_tokens=12, temperature=0.0),
    ],
    ids=["drawn", "min_p", "counted", "biased", "greedy"],
)
def test_no_launch_waits_for_the_device(sampling: SamplingParams) -> None:
    device = torch.device("cuda")
    prompts = PrefillStaging(16, 4, device)
    rows = DecodeStaging(max_rows=4, max_blocks=8, block_tokens=4, device=device, bucket_of=lambda live: live)
    kv = torch.zeros(8, 4, device=device)
    runner = ModelRunner(RandomModel(), kv, prompts, rows, ComputeThreads(1, 1))  # type: ignore[arg-type]
    trunk, row = sequence_of(sampling, n=2, computed=0), sequence_of(sampling, n=1, computed=len(PROMPT) - 1)
    prompt = Step(copies=[Copy(3, 4)], chunks=[Chunk(trunk, len(PROMPT))], completed=[trunk])
    steps = [prompt, Step(decode=[row]), Step(decode=[row], follows=[0])]
    for step in steps:
        runner.launch(step).land()  # kernels are compiled here, and pinned buffers allocated
    torch.cuda.set_sync_debug_mode("error")
    try:
        flights = [runner.launch(step) for step in steps]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [len(flight.land()) for flight in flights] == [2, 1, 1]


def test_a_length_that_ends_for_certain_is_not_computed_beyond() -> None:
    worker = FakeWorker(run_ahead=True)
    worker.submit("r", PROMPT, 5)
    worker.run()
    assert len(worker.model.decode_sizes) == 4


@pytest.mark.parametrize("turns", range(1, 8))
def test_an_abort_in_flight_keeps_the_blocks_until_the_step_has_landed(turns: int) -> None:
    worker = FakeWorker(run_ahead=True)
    worker.submit("gone", PROMPT, 40)
    for _ in range(turns):
        worker.turn()
    worker.tell(Abort(request_id="gone", choice=None))
    worker.turn()
    worker.run()
    assert worker.in_use == 0
    worker.submit("next", PROMPT, 8)
    worker.run()
    assert worker.tokens_of("next") == tokens_after(PROMPT, 8)


@pytest.mark.parametrize("turns", range(1, 6))
def test_an_abort_where_forks_ran_out_of_room_leaves_no_copy_into_blocks_of_others(turns: int) -> None:
    network = FakeNetwork()
    prefill, decode = (
        FakeWorker(kind, blocks=blocks, network=network, run_ahead=True)
        for kind, blocks in (("prefill", 16), ("decode", 5))
    )
    decode.submit("other", PROMPT[:1], 40)
    decode.turn()
    decode.submit("forks", PROMPT[1:7], 8, n=3)
    for _ in range(turns):
        decode.turn()
    decode.tell(Abort(request_id="forks"))
    decode.submit("pulled", PROMPT[:3], 6, kv_transfer=hand_over(prefill, "pulled", PROMPT[:3]))
    for _ in range(40):
        decode.turn()
        decode.service.finish_all()
    assert decode.tokens_of("pulled") == tokens_after(PROMPT[:3], 6)


def test_logits_without_a_maximum_fail_their_request_alone_and_once() -> None:
    worker = FakeWorker(run_ahead=True)
    expected = tokens_after(PROMPT, 8)
    worker.model.blinded_by = tokens_after([1, 2, 3], 3)[2]
    assert worker.model.blinded_by not in [*PROMPT, *expected]
    worker.submit("blind", [1, 2, 3], 8)
    worker.submit("fine", PROMPT, 8)
    worker.run()
    assert worker.failure("blind").kind is FailureKind.INTERNAL
    assert worker.tokens_of("fine") == expected
    assert worker.in_use == 0


def test_a_step_that_raises_at_its_launch_fails_what_was_in_it_after_the_one_ahead_has_landed() -> None:
    worker = FakeWorker(run_ahead=True)
    expected = tokens_after(PROMPT, 8)
    worker.model.broken_by = expected[3]
    worker.submit("r", PROMPT, 8)
    worker.run()
    assert worker.failure("r").kind is FailureKind.INTERNAL
    assert worker.tokens_of("r") == expected[: len(worker.tokens_of("r"))]
    assert worker.in_use == 0
    worker.model.broken_by = None
    worker.submit("next", PROMPT, 8)
    worker.run()
    assert worker.tokens_of("next") == expected
