"""The worst workload of the decode worker decides, by the median of its rounds."""

from baton.bench.engine.rounds import Sample
from baton.bench.engine.table import agreement, compare, verdict
from baton.bench.engine.workload import Speed


def sample(number: int, target: str, workload: str, rate: float, token_ids: list[int]) -> Sample:
    speed = Speed(rate=rate, together=rate, first_token_s=0.01, wall_s=1.0, token_ids=[token_ids])
    return Sample(round=number, target=target, workload=workload, speed=speed)


SAMPLES = [
    sample(number, target, workload, rate, [1, 2, 3] if target == "vllm" else [1, 2, last])
    for number, target, workload, rate, last in [
        (0, "vllm", "decode", 100.0, 0),
        (0, "baton decode", "decode", 500.0, 3),
        (1, "baton decode", "decode", 300.0, 4),
        (1, "vllm", "decode", 100.0, 0),
        (2, "baton decode", "decode", 310.0, 3),
        (2, "vllm", "decode", 100.0, 0),
        (0, "baton prefill", "prefill", 10.0, 3),
        (0, "baton decode", "prefill", 450.0, 3),
        (0, "vllm", "prefill", 100.0, 0),
    ]
]


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    found = {(c.server, c.workload): c for c in compare("tiny", SAMPLES)}

    assert found["baton decode", "decode"].ratio == 3.1
    assert found["baton decode", "decode"].least_ratio == 3.0
    assert found["baton prefill", "prefill"].ratio == 0.1


def test_the_worst_workload_of_the_decode_worker_decides() -> None:
    compared = compare("tiny", SAMPLES)

    assert verdict(compared) == ("bench-engine: 3.10x (target >= 3x)", True)
    assert verdict([*compared, *compare("other", slower())]) == ("bench-engine: 2.00x (target >= 3x)", False)


def slower() -> list[Sample]:
    return [sample(0, "vllm", "decode", 10.0, [1]), sample(0, "baton decode", "decode", 20.0, [1])]


def test_nothing_compared_holds_no_target() -> None:
    assert verdict([]) == ("bench-engine: nothing was compared (target >= 3x)", False)


def test_tokens_agree_up_to_the_first_difference() -> None:
    found = agreement(SAMPLES)

    assert (found.streams, found.same) == (5, 4)
    assert (found.tokens, found.same_tokens) == (15, 14)
