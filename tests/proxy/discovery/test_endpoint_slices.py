"""EndpointSlices become workers: those that are to be sent requests, each once."""

from typing import Any

import msgspec

from baton.proxy.discovery.endpoint_slices import EndpointSlice, ServiceEndpoints
from baton.proxy.discovery.settings import ServiceSettings
from baton.proxy.routing.fleet import Role

from .fake_api_server import slice_of


def urls(*slices: dict[str, Any], port_names: tuple[str, ...] = ()) -> list[str]:
    state = ServiceEndpoints(ServiceSettings(name="s", role=Role.DECODE, port_names=port_names))
    state.replace(msgspec.convert(each, EndpointSlice) for each in slices)
    return [worker.url for worker in state.workers()]


def test_an_endpoint_that_is_not_ready_or_terminates_is_no_worker() -> None:
    assert urls(slice_of("a", "s", "10.0.0.1", conditions={"ready": False})) == []
    assert urls(slice_of("a", "s", "10.0.0.1", conditions={"ready": True, "terminating": True})) == []


def test_conditions_that_are_not_told_say_nothing_against_it() -> None:
    assert urls(slice_of("a", "s", "10.0.0.1", conditions={})) == ["http://10.0.0.1:8100"]
    assert urls(slice_of("a", "s", "10.0.0.1", conditions=None)) == ["http://10.0.0.1:8100"]


def test_an_endpoint_in_two_slices_is_one_worker() -> None:
    assert urls(slice_of("a", "s", "10.0.0.1"), slice_of("b", "s", "10.0.0.1")) == ["http://10.0.0.1:8100"]


def test_each_wanted_port_is_a_rank() -> None:
    ranks = slice_of("a", "s", "10.0.0.1")
    ranks["ports"] = [
        {"name": "rank0", "port": 1},
        {"name": "rank1", "port": 2},
        {"name": "metrics", "port": 3},
    ]

    assert urls(ranks, port_names=("rank0", "rank1")) == ["http://10.0.0.1:1", "http://10.0.0.1:2"]
    assert len(urls(ranks)) == 3


def test_ipv6_addresses_make_urls_and_empty_slices_nothing() -> None:
    assert urls(slice_of("a", "s", "fd00::1")) == ["http://[fd00::1]:8100"]
    assert urls({"metadata": {"name": "a"}, "endpoints": None, "ports": None}) == []
