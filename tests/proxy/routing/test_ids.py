"""Ids in flight are never shared."""

from baton.proxy.routing.ids import RequestIds


def test_an_id_is_given_once_until_all_its_holders_let_go() -> None:
    ids = RequestIds()
    first = ids.claim("r")
    ids.hold(first)
    second = ids.claim("r")
    ids.release(first)
    third = ids.claim("r")
    ids.release(first)

    assert len({first, second, third}) == 3
    assert ids.claim("r") == "r"


def test_a_variant_that_a_client_chose_itself_is_passed_over() -> None:
    ids = RequestIds()
    taken = [ids.claim("r-1"), ids.claim("r")]

    assert ids.claim("r") not in taken


def test_nothing_is_kept_of_ids_that_were_let_go() -> None:
    ids = RequestIds()
    ids.release(ids.claim("r"))

    assert len(ids) == 0
