"""What a router changes on the way is named."""

from baton.bench.proxy.fidelity import changes_of_body, changes_of_headers


def test_an_untouched_body_is_unchanged_whatever_the_hand_over_adds() -> None:
    assert changes_of_body({"a": 1}, {"a": 1, "kv_transfer_params": {}, "bootstrap_room": 7}) == "unchanged"


def test_every_kind_of_change_is_named() -> None:
    changes = changes_of_body({"a": 0.7, "b": 1}, {"a": 0.699, "c": 2})

    assert changes == "drops b; changes a 0.7 -> 0.699; adds c"


def test_headers_are_kept_dropped_or_replaced() -> None:
    sent = {"X-Custom": "1", "Authorization": "mine", "X-Request-Id": "r"}

    changes = changes_of_headers(sent, {"authorization": "other", "x-request-id": "r"})

    assert changes == "keeps X-Request-Id; drops X-Custom; replaces Authorization"
