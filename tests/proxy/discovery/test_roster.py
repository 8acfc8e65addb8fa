"""Several lists make one fleet, and only what changed is told."""

from baton.proxy.config import WorkerAddress
from baton.proxy.discovery.roster import Changes, Roster
from baton.proxy.routing.fleet import Role


def worker(name: str, *, port: int = 1, role: Role = Role.DECODE) -> WorkerAddress:
    return WorkerAddress(url=f"http://h:{port}", role=role, name=name)


def test_what_came_went_and_changed_is_told_once() -> None:
    roster = Roster()
    assert roster.update("s", [worker("a"), worker("b")]) == Changes(added=(worker("a"), worker("b")))
    assert not roster.update("s", [worker("b"), worker("a")])

    assert roster.update("s", [worker("b", port=2), worker("c")]) == Changes(
        removed=(worker("a"),), changed=(worker("b", port=2),), added=(worker("c"),)
    )
    assert roster.workers == (worker("b", port=2), worker("c"))


def test_the_first_to_list_a_title_has_the_say_until_it_drops_it() -> None:
    roster = Roster()
    roster.update("first", [worker("a", port=1)])
    assert not roster.update("second", [worker("a", port=2)])

    assert roster.update("first", []) == Changes(changed=(worker("a", port=2),))
    assert roster.update("second", []) == Changes(removed=(worker("a", port=2),))


def test_configured_workers_cannot_be_taken_away() -> None:
    roster = Roster([worker("a")])
    assert not roster.update("s", [worker("a", port=2)])
    assert not roster.update("s", [])
    assert roster.workers == (worker("a"),)
