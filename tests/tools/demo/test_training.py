"""A few steps lower the loss, a killed run goes on as if it had not been, experts get equal loads."""

import random
from pathlib import Path

import msgspec
import pytest
import torch
from tokenizers import Tokenizer

from baton.tools.demo.batches import LENGTHS, draw_batch, draw_length, pad
from baton.tools.demo.checkpoint import Progress, Run, load_model, resume, save
from baton.tools.demo.config import DemoConfig
from baton.tools.demo.model import DemoModel, Gate
from baton.tools.demo.objective import Schedule, losses, optimizer_for, train_step


def tiny_run(tiny: DemoConfig) -> Run:
    torch.manual_seed(0)
    model = DemoModel(tiny)
    return Run(model=model, optimizer=optimizer_for(model), progress=Progress())


def go(run: Run, tokenizer: Tokenizer, steps: range) -> list[float]:
    found = []
    for step in steps:
        batch = draw_batch(tokenizer, random.Random(step), length=64, tokens=512)
        found.append(train_step(run.model, run.optimizer, batch, 3e-3, mtp=True))
    return found


def test_training_lowers_the_loss_of_both_heads(tiny: DemoConfig, tokenizer: Tokenizer) -> None:
    run = tiny_run(tiny)
    unseen = draw_batch(tokenizer, random.Random("unseen"), length=64, tokens=1024)
    before, before_answers = (loss.item() for loss in losses(run.model, unseen, mtp=True))
    before_mtp = before - losses(run.model, unseen, mtp=False)[0].item()

    go(run, tokenizer, range(40))

    after, after_answers = (loss.item() for loss in losses(run.model, unseen, mtp=True))
    after_mtp = after - losses(run.model, unseen, mtp=False)[0].item()
    assert after_answers < 0.75 * before_answers
    assert after_mtp < 0.85 * before_mtp


def test_a_killed_run_goes_on_exactly_where_it_was_saved(
    tiny: DemoConfig, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    whole, killed = tiny_run(tiny), tiny_run(tiny)
    go(whole, tokenizer, range(6))
    go(killed, tokenizer, range(3))
    killed.progress.steps = 3
    save(tmp_path, killed)

    resumed = resume(tmp_path, seed=99)
    go(resumed, tokenizer, range(resumed.progress.steps, 6))

    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_a_saved_model_keeps_its_shape(tiny: DemoConfig, tmp_path: Path) -> None:
    save(tmp_path, tiny_run(tiny))

    assert load_model(tmp_path).config == tiny
    assert not (tmp_path / "checkpoint.partial").exists()


def test_the_rate_warms_up_stays_and_falls_to_zero() -> None:
    schedule = Schedule(tokens=1000, peak_rate=1.0)

    assert schedule.rate(steps=0, tokens=0) == pytest.approx(0.01)
    assert schedule.rate(steps=500, tokens=500) == 1.0
    assert schedule.rate(steps=800, tokens=800) == pytest.approx(0.5)
    assert schedule.rate(steps=1000, tokens=1000) == 0.0


def test_every_promised_prompt_length_is_trained_from_the_start() -> None:
    rng = random.Random(0)
    first_steps = {draw_length(rng, done=0.0) for _ in range(300)}

    assert first_steps >= {128, 256, 512, 1024}
    assert {draw_length(rng, done=0.5) for _ in range(300)} == set(LENGTHS)


def test_padding_is_neither_text_nor_answer() -> None:
    batch = pad([([0, 7, 8], [False, True, True]), ([0], [False])])

    assert batch.ids.shape == (2, 3)
    assert batch.is_text.tolist() == [[True, True, True], [True, False, False]]
    assert batch.is_answer.tolist() == [[False, True, True], [False, False, False]]


def test_a_busy_expert_becomes_less_likely_to_be_chosen(tiny: DemoConfig) -> None:
    gate = Gate(msgspec.structs.replace(tiny, n_routed_experts=4))
    gate.load = torch.tensor([10.0, 2.0, 2.0, 2.0])

    gate.balance(0.001)

    torch.testing.assert_close(gate.e_score_correction_bias, torch.tensor([-0.001, 0.001, 0.001, 0.001]))
    assert gate.load.tolist() == [0, 0, 0, 0]


def test_no_position_sees_what_it_has_to_predict(tiny: DemoConfig) -> None:
    torch.manual_seed(1)
    model = DemoModel(tiny)
    ids = torch.randint(tiny.vocab_size, (1, 12))
    changed = ids.clone()
    changed[0, 8] = (ids[0, 8] + 1) % tiny.vocab_size

    states, other = model.states(ids), model.states(changed)
    ahead, other_ahead = model.next_states(ids, states), model.next_states(changed, other)

    # The main head at 7 predicts token 8; the MTP head at 6 (which is given token 7) predicts token 8.
    torch.testing.assert_close(states[:, :8], other[:, :8])
    torch.testing.assert_close(ahead[:, :7], other_ahead[:, :7])
    assert not torch.allclose(ahead[:, 7], other_ahead[:, 7])
