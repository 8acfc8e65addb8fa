"""A stream becomes an answer with the time of every token, or an error that says what was wrong with it."""

import pytest

from baton.proxy.calibration.answer import AnswerError, read_stream

USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3}}\n\ndata: [DONE]\n\n'


def test_tokens_have_the_time_at_which_their_event_was_complete() -> None:
    answer = read_stream(
        1.0,
        [
            (2.0, b'data: {"choices":[{"text":"a"}]}\n\ndata: {"choices":[{"te'),
            (3.0, b'xt":"b","token_ids":[4,5]}]}\r\n\r\n'),
            (4.0, USAGE),
        ],
    )

    assert answer.token_times == (2.0, 3.0, 3.0)
    assert (answer.ttft_s, answer.tpot_s) == (1.0, 0.5)
    assert (answer.prompt_tokens, answer.output_tokens, answer.report) == (9, 3, None)


def test_the_workers_report_is_read_where_there_is_one() -> None:
    event = (
        b'data: {"choices":[{"text":"a"}],"usage":{"prompt_tokens":9,"completion_tokens":1},'
        b'"baton":{"prefill_worker":"p","decode_worker":"d","kv_bytes":5,"phases":{"prefill_s":0.5}}}\n\n'
    )
    report = read_stream(0.0, [(1.0, event)]).report

    assert report is not None
    assert (report.prefill_worker, report.kv_bytes, report.phases.prefill_s) == ("p", 5, 0.5)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'data: {"choices":[{"text":"a"}]}\n\n', "no usage"),
        (USAGE, "no tokens"),
        (b'data: {"error":{"message":"out of memory"}}\n\n', "out of memory"),
        (b"data: <html>\n\n", "no completion"),
    ],
)
def test_what_is_no_whole_completion_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(AnswerError, match=message):
        read_stream(0.0, [(1.0, body)])
