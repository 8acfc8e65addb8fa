"""No two processes know a request by the same id, whatever clients call theirs."""

from pathlib import Path

from baton.proxy.routing.ids import RequestIds
from baton.proxy.siblings.place import Place


def place(index: int) -> Place:
    return Place(index=index, count=2, folder=Path("/nowhere"))


def test_a_client_cannot_name_a_request_as_another_process_names_its_own() -> None:
    first, second = place(0), place(1)
    theirs = RequestIds(second.id_suffix).claim("x")

    assert RequestIds(first.id_suffix).claim(f"x{second.id_suffix}") != theirs
    assert RequestIds(first.id_suffix).claim("x-p1") != RequestIds("-p1").claim("x")


def test_a_process_that_is_started_again_uses_none_of_its_predecessors_ids() -> None:
    assert RequestIds(place(1).id_suffix).claim("x") != RequestIds(place(1).id_suffix).claim("x")
