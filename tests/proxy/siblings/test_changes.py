"""Only what still matters of the admin calls is made up for."""

from baton.proxy.siblings.changes import Change, Changes

ADD = Change(method="POST", path="/admin/workers", body=b"{}")
DRAIN = Change(method="POST", path="/admin/workers/w/drain")
UNDRAIN = Change(method="DELETE", path="/admin/workers/w/drain")
REMOVE = Change(method="DELETE", path="/admin/workers/w")


def left(*changes: Change) -> list[Change]:
    kept = Changes()
    for change in changes:
        kept.note("w", change)
    return kept.all()


def test_what_was_added_and_removed_leaves_nothing() -> None:
    assert left(ADD, DRAIN, REMOVE) == []


def test_what_the_configuration_lists_is_removed_again() -> None:
    assert left(DRAIN, REMOVE) == [REMOVE]
    assert left(REMOVE, ADD) == [REMOVE, ADD]


def test_a_drain_that_was_taken_back_is_not_made_again() -> None:
    assert left(ADD, DRAIN, UNDRAIN) == [ADD]
    assert left(DRAIN, DRAIN) == [DRAIN]
    assert left(DRAIN, UNDRAIN) == []
