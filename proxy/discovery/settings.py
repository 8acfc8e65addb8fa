"""What a configuration may say about where workers are listed. Every default stands here, once."""

from pathlib import Path
from typing import Annotated

import msgspec

from ..routing.fleet import Kind, Role

Seconds = Annotated[float, msgspec.Meta(gt=0)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Name = Annotated[str, msgspec.Meta(min_length=1)]
_SECRETS = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class FileSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="file", tag_field="from"
):
    """A YAML file with the key `workers`, as in the proxy's own configuration."""

    path: Name
    interval_s: Seconds = 1.0
    """Between looks at whether it changed."""


class DnsSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="dns", tag_field="from"
):
    """Every A and AAAA address of a name is a worker, as behind a headless service."""

    host: Name
    port: Port
    role: Role
    kind: Kind = Kind.BATON
    bootstrap_port: Port = 8998
    interval_s: Seconds = 5.0
    misses_to_empty: Annotated[int, msgspec.Meta(ge=1)] = 3
    """So many answers in a row that the name has no address mean that there are no workers."""


class ServiceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One Kubernetes service, all of whose endpoints are workers of one role."""

    name: Name
    role: Role
    kind: Kind = Kind.BATON
    bootstrap_port: Port = 8998
    port_names: tuple[Name, ...] = ()
    """Ports of an endpoint that are workers, one for each data-parallel rank; empty: all of its ports."""


class KubernetesSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="kubernetes", tag_field="from"
):
    """EndpointSlices of services, from within the cluster.

    The service account needs `list` and `watch` on `endpointslices` of `discovery.k8s.io`.
    """

    services: Annotated[tuple[ServiceSettings, ...], msgspec.Meta(min_length=1)]
    namespace: Name | None = None
    """Absent: the proxy's own."""
    api_url: Name = "https://kubernetes.default.svc"
    token_file: Name = str(_SECRETS / "token")
    """Read for every call: tokens are rotated."""
    ca_file: Name | None = str(_SECRETS / "ca.crt")
    """Absent or null: the system's authorities."""
    namespace_file: Name = str(_SECRETS / "namespace")
    call_timeout_s: Seconds = 10.0
    watch_timeout_s: Annotated[int, msgspec.Meta(ge=1)] = 290
    """After which the server is asked to end a watch, which is then begun anew."""
    backoff_first_s: Seconds = 0.5
    """Pause after a failure; doubles up to `backoff_longest_s`."""
    backoff_longest_s: Seconds = 30.0


DiscoverySettings = FileSettings | DnsSettings | KubernetesSettings
