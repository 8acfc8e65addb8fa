"""An answer's chunks are read leniently, and its report in one line."""

import pytest

from baton.cli.answers import BatonReport, Phases, describe, parse_chunk, text_of


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b'{"choices":[{"index":0,"delta":{"content":"hi"},"new_field":1}]}', "hi"),
        (b'{"choices":[{"delta":{"role":"assistant"}}]}', ""),
        (b'{"choices":[{"text":"hi"}]}', "hi"),
        (b'{"choices":[],"usage":{"prompt_tokens":3}}', ""),
    ],
)
def test_the_text_of_a_chunk_is_found(data: bytes, text: str) -> None:
    assert text_of(parse_chunk(data)) == text


def test_an_error_event_is_a_chunk_with_an_error() -> None:
    error = parse_chunk(b'{"error":{"message":"gone","type":"server_error","param":null,"code":502}}').error

    assert error is not None
    assert error.message == "gone"


def test_a_report_says_everything_in_one_line() -> None:
    report = BatonReport(
        prefill_worker="prefill-0",
        decode_worker="decode-1",
        prompt_tokens=212,
        cached_tokens=64,
        kv_bytes=3 * 1024**2,
        phases=Phases(queue_s=0.001, prefill_s=0.25, transfer_s=0.0042, first_step_s=0.006),
        ttft_s=0.27,
        decode_tokens_per_s=55.4,
    )

    assert describe(report) == (
        "prefill-0 -> decode-1 | 212 prompt tokens, 64 cached | 3.0 MiB KV shipped | first token 270 ms "
        "(queue 1.0 ms, prefill 250 ms, transfer 4.2 ms, first step 6.0 ms) | 55 tokens/s"
    )


@pytest.mark.parametrize(
    ("report", "line"),
    [
        (BatonReport(), ""),
        (BatonReport(decode_worker="d", kv_bytes=0), "d | 0 B KV shipped"),
        (BatonReport(kv_bytes=2048, ttft_s=0.05), "2.0 KiB KV shipped | first token 50.0 ms"),
        (BatonReport(kv_bytes=0, recomputed=True), "0 B KV shipped | KV not usable, prompt recomputed"),
        (BatonReport(phases=Phases(queue_s=0.001)), "first token (queue 1.0 ms)"),
    ],
)
def test_what_is_unknown_is_left_out(report: BatonReport, line: str) -> None:
    assert describe(report) == line
