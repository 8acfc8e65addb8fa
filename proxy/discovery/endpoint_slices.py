"""Kubernetes' EndpointSlices of one service, as workers. No I/O; `kubernetes_source.py` feeds it.

Every port of an endpoint is a worker, named `pod:port`. An endpoint that is terminating, or not ready, is no
worker: leaving the list, it is drained. Slices of one service may list the same endpoint while they change.
"""

from collections.abc import Iterable

import msgspec

from ..config import WorkerAddress
from .dns_source import http_url
from .settings import ServiceSettings


class Metadata(msgspec.Struct, frozen=True, rename="camel"):
    """Of an object or a list."""

    name: str = ""
    resource_version: str = ""


class Conditions(msgspec.Struct, frozen=True, rename="camel"):
    """Each may be absent, which says nothing against the endpoint."""

    ready: bool | None = None
    terminating: bool | None = None


class TargetRef(msgspec.Struct, frozen=True, rename="camel"):
    """What stands behind an endpoint: a pod."""

    name: str = ""


class Endpoint(msgspec.Struct, frozen=True, rename="camel"):
    """One pod."""

    addresses: tuple[str, ...]
    conditions: Conditions | None = None
    target_ref: TargetRef | None = None


class EndpointPort(msgspec.Struct, frozen=True, rename="camel"):
    """A port that all endpoints of the slice have."""

    name: str | None = None
    port: int | None = None


class EndpointSlice(msgspec.Struct, frozen=True, rename="camel"):
    """Some of a service's endpoints. The API server sends null for empty lists."""

    metadata: Metadata
    endpoints: tuple[Endpoint, ...] | None = None
    ports: tuple[EndpointPort, ...] | None = None


class EndpointSliceList(msgspec.Struct, frozen=True, rename="camel"):
    """The answer to a list call."""

    metadata: Metadata
    items: tuple[EndpointSlice, ...] | None = None


class ServiceEndpoints:
    """All slices of one service."""

    def __init__(self, service: ServiceSettings) -> None:
        self._service = service
        self._slices: dict[str, EndpointSlice] = {}

    def replace(self, slices: Iterable[EndpointSlice]) -> None:
        """Take the whole list."""
        self._slices = {each.metadata.name: each for each in slices}

    def put(self, slice_: EndpointSlice) -> None:
        """A slice was added or changed."""
        self._slices[slice_.metadata.name] = slice_

    def drop(self, slice_: EndpointSlice) -> None:
        """A slice was deleted."""
        self._slices.pop(slice_.metadata.name, None)

    def workers(self) -> list[WorkerAddress]:
        """Return the workers, by name."""
        found = {worker.title: worker for each in self._slices.values() for worker in self._workers_of(each)}
        return [found[title] for title in sorted(found)]

    def _workers_of(self, slice_: EndpointSlice) -> Iterable[WorkerAddress]:
        wanted = self._service.port_names
        ports = [each for each in slice_.ports or () if not wanted or each.name in wanted]
        for endpoint in slice_.endpoints or ():
            if not endpoint.addresses or not _serves(endpoint.conditions):
                continue
            address = endpoint.addresses[0]  # others are not to be used, says the API
            pod = endpoint.target_ref.name if endpoint.target_ref is not None else ""
            for port in ports:
                if port.port is not None:
                    yield WorkerAddress(
                        url=http_url(address, port.port),
                        role=self._service.role,
                        kind=self._service.kind,
                        bootstrap_port=self._service.bootstrap_port,
                        name=f"{pod or address}:{port.port}",
                    )


def _serves(conditions: Conditions | None) -> bool:
    return conditions is None or (conditions.ready is not False and conditions.terminating is not True)
