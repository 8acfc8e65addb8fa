"""What is read of a prefill worker's answer."""

import pytest

from baton.proxy.prefill_answer import read_prefill_answer


def test_the_account_beside_the_usage_is_kept_as_it_came() -> None:
    answer = read_prefill_answer(
        b'{"kv_transfer_params": {"remote_num_tokens": 3}, "usage": {"prompt_tokens": 3}, '
        b'"baton": {"kv_bytes": 0}}'
    )

    assert answer.account is not None
    assert bytes(answer.account) == b'{"kv_bytes": 0}'
    assert answer.kv is not None


@pytest.mark.parametrize("account", [b"", b', "baton": null'])
def test_an_answer_without_an_account_is_as_good(account: bytes) -> None:
    answer = read_prefill_answer(b'{"kv_transfer_params": {"remote_num_tokens": 3}' + account + b"}")

    assert answer.account is None
    assert answer.kv is not None
