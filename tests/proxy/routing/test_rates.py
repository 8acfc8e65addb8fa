"""Each worker and link has its own rates, new ones start from the fleet's, and memory is bounded."""

import random

import msgspec
import pytest

from baton.proxy.routing.rates import RateConfig, Rates, attended_pairs


def prefill_s(rates: Rates, worker: str, *, uncached_tokens: float, cached_tokens: float = 0.0) -> float:
    pairs = attended_pairs(uncached_tokens, cached_tokens)
    return rates.prefill_fit(worker).predict((1.0, uncached_tokens, pairs))


def transfer_s(rates: Rates, prefill: str, decode: str, *, kv_bytes: int) -> float:
    return rates.transfer_fit(prefill, decode).predict((1.0, kv_bytes))


def decode_step_s(rates: Rates, worker: str, *, rows: float, context_tokens: float) -> float:
    return rates.decode_step_fit(worker).predict((1.0, rows, context_tokens))


def prefilled(
    rates: Rates, worker: str, *, uncached_tokens: float, cached_tokens: float = 0.0, seconds: float
) -> None:
    pairs = attended_pairs(uncached_tokens, cached_tokens)
    rates.prefilled_several(
        worker, prompts=1, uncached_tokens=uncached_tokens, pairs=pairs, seconds=seconds, now=0.0
    )


def test_priors_of_the_policy_file_are_the_first_answer() -> None:
    config = msgspec.yaml.decode(
        b"prefill: {base_s: 0.1, per_token_s: 0.001, per_pair_s: 1.0e-6}\n"
        b"transfer: {base_s: 0.5, per_byte_s: 1.0e-6}\n"
        b"decode_step: {base_s: 0.02, per_row_s: 0.001, per_context_token_s: 1.0e-6}\n",
        type=RateConfig,
    )
    rates = Rates(config)

    assert prefill_s(rates, "p", uncached_tokens=1000, cached_tokens=100) == pytest.approx(1.7)
    assert transfer_s(rates, "p", "d", kv_bytes=1_000_000) == pytest.approx(1.5)
    assert decode_step_s(rates, "d", rows=10, context_tokens=10_000) == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (b"prefill: {per_token_s: 0}", r"\$.prefill.per_token_s"),
        (b"transfer: {per_byte: 1}", r"per_byte.*\$.transfer"),
        (b"memory_observations: 1", r"\$.memory_observations"),
    ],
)
def test_a_bad_prior_is_refused_with_its_path(text: bytes, path: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=path):
        msgspec.yaml.decode(text, type=RateConfig)


def test_every_worker_and_link_learns_its_own_rate() -> None:
    rates, generator = Rates(RateConfig()), random.Random(0)
    for _ in range(600):
        tokens, rows, size = (
            generator.randrange(100, 9000),
            generator.randrange(1, 64),
            generator.randrange(10**8),
        )
        context = rows * generator.randrange(100, 4000)
        for number, worker in enumerate(("slow", "fast")):
            speed = (1.0, 0.25)[number]
            prefilled(
                rates,
                worker,
                uncached_tokens=tokens,
                cached_tokens=rows % 4,
                seconds=speed * (0.02 + 2e-4 * tokens),
            )
            rates.decoded(
                worker,
                rows=rows,
                context_tokens=context,
                seconds=speed * (0.03 + 2e-4 * rows + 1e-8 * context),
                now=0.0,
            )
            rates.transferred("p", worker, kv_bytes=size, seconds=speed * (0.001 + 1e-9 * size), now=0.0)

    assert prefill_s(rates, "slow", uncached_tokens=4000) == pytest.approx(0.82, rel=0.05)
    assert prefill_s(rates, "fast", uncached_tokens=4000) == pytest.approx(0.205, rel=0.05)
    assert decode_step_s(rates, "slow", rows=32, context_tokens=64_000) == pytest.approx(0.03704, rel=0.05)
    assert decode_step_s(rates, "fast", rows=32, context_tokens=64_000) == pytest.approx(0.00926, rel=0.05)
    assert transfer_s(rates, "p", "slow", kv_bytes=5 * 10**7) == pytest.approx(0.051, rel=0.05)
    assert transfer_s(rates, "p", "fast", kv_bytes=5 * 10**7) == pytest.approx(0.01275, rel=0.05)


def test_a_new_link_starts_from_what_the_fleet_has_taught() -> None:
    rates, generator = Rates(RateConfig()), random.Random(0)
    for _ in range(500):
        size = generator.randrange(10**6, 10**8)
        rates.transferred(
            "p1", f"d{generator.randrange(4)}", kv_bytes=size, seconds=0.003 + 4e-10 * size, now=0.0
        )
    assert transfer_s(rates, "new", "newer", kv_bytes=10**8) == pytest.approx(0.043, rel=0.05)

    rates.transferred("new", "newer", kv_bytes=10**8, seconds=0.043, now=0.0)
    assert transfer_s(rates, "new", "newer", kv_bytes=10**7) == pytest.approx(0.007, rel=0.1)


def test_a_forgotten_worker_falls_back_to_the_fleet() -> None:
    rates = Rates(RateConfig())
    for _ in range(100):
        for prefill in ("good", "bad"):
            seconds = 1.0 if prefill == "bad" else 0.05
            prefilled(rates, prefill, uncached_tokens=1000, seconds=seconds)
            rates.transferred(prefill, "d", kv_bytes=10**6, seconds=seconds, now=0.0)
    assert prefill_s(rates, "bad", uncached_tokens=1000) == pytest.approx(1.0, rel=0.05)

    rates.forget("bad")

    stranger = prefill_s(rates, "stranger", uncached_tokens=1000)
    assert prefill_s(rates, "bad", uncached_tokens=1000) == stranger < 0.9
    assert rates.transfer_fit("bad", "d") is rates.transfer_fit("x", "y")
    assert rates.transfer_fit("good", "d") is not rates.transfer_fit("x", "y")
    assert rates.decode_step_fit("d").observations == 0
    assert rates.prefill_fit("good").observations == pytest.approx(63.4, abs=0.1)


def test_only_so_many_links_have_a_fit_of_their_own() -> None:
    rates = Rates(RateConfig(most_links=50))
    for number in range(500):
        rates.transferred("p", f"d{number}", kv_bytes=1000, seconds=0.01, now=0.0)

    own = [n for n in range(500) if rates.transfer_fit("p", f"d{n}") is not rates.transfer_fit("-", "-")]
    assert own == list(range(450, 500))


def test_a_settled_fit_wants_observations_at_an_even_pace_and_a_new_one_all_it_can_get() -> None:
    rates, now, taken = Rates(RateConfig()), 0.0, 0
    for _ in range(10_000):
        now += 0.001
        if rates.decode_step_fit("d").due_at <= now:
            taken += 1
            rates.decoded("d", rows=4, context_tokens=1000, seconds=0.02, now=now)

    assert 10.0 / 0.06 < taken < 10.0 / 0.05 + 60
    assert rates.decode_step_fit("another").due_at <= now
    rates.forget("d")
    assert rates.decode_step_fit("d").due_at <= now
