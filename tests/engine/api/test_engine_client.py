"""The client of the engine process, over the real socket."""

import pytest

from baton.engine.api.errors import ApiError
from baton.engine.messages import Generate, SamplingParams
from support.fake_engine import Script
from support.served_worker import Served


def generate(request_id: str) -> Generate:
    return Generate(
        request_id=request_id,
        external_id="x",
        prompt_token_ids=[5],
        sampling=SamplingParams(max_tokens=3),
    )


async def test_loading_progress_reaches_the_watcher_in_order(served: Served) -> None:
    assert [(step.stage, step.done, step.total) for step in served.watcher.loading] == [
        ("weights", 1, 2),
        ("weights", 2, 2),
    ]


async def test_a_request_aborted_on_its_way_is_never_submitted(served: Served) -> None:
    client = served.frontend.engine
    mailbox = client.open_mailbox("x")

    result = await client.abort_external("x")

    assert result.aborted == 1
    with pytest.raises(ApiError, match="aborted"):
        client.submit([generate("x-1")], mailbox)
    client.close(mailbox)
    assert served.engine.generates == []


async def test_calls_are_answered_while_tokens_flow(served: Served) -> None:
    served.engine.script = Script(hold_after=1)
    client = served.frontend.engine
    mailbox = client.open_mailbox("x")
    client.submit([generate("x-1")], mailbox)
    await mailbox.take()

    reports = [await client.check_integrity() for _ in range(20)]

    assert {report.requests for report in reports} == {1}
    client.close(mailbox)
    await served.until(lambda engine: not engine.running)


async def test_nothing_is_submitted_before_the_engine_is_ready(loading: Served) -> None:
    client = loading.frontend.engine
    mailbox = client.open_mailbox("x")

    with pytest.raises(ApiError) as refused:
        client.submit([generate("x-1")], mailbox)

    assert refused.value.status == 503


async def test_an_abort_by_id_succeeds_while_the_engine_loads(loading: Served) -> None:
    assert await loading.post("/abort/x", {}) == (200, {"aborted": 0, "released": 0})


async def test_a_lost_engine_fails_open_calls_and_requests(served: Served) -> None:
    served.engine.script = Script(hold_after=0)
    client = served.frontend.engine
    mailbox = client.open_mailbox("x")
    client.submit([generate("x-1")], mailbox)

    await served.lose_engine("exit status 9")

    with pytest.raises(ApiError, match="exit status 9"):
        await mailbox.take()
    with pytest.raises(ApiError, match="not ready"):
        await client.check_integrity()
