"""Configuration of a proxy, from a YAML file or from flags. Every default stands here, once."""

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
import yaml

from .discovery.settings import DiscoverySettings
from .kv_event_source import KvEventAddress
from .routing.admission_config import AdmissionConfig
from .routing.fleet import Kind, Role
from .routing.policy_file import DEFAULTS

Seconds = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the file and the key."""


class WorkerAddress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One worker of the fleet."""

    url: str
    """`http://host:port` of its API."""
    role: Role
    """`prefill`, `decode` or `both`."""
    kind: Kind = Kind.BATON
    """`baton`, `vllm` or `sglang`."""
    bootstrap_port: Port = 8998
    """Of an SGLang prefill worker: where its decode workers meet it, on the host of its API."""
    kv_events: KvEventAddress | None = None
    """Where it publishes what its prefix cache holds; absent: that is learned from its answers alone."""
    name: str | None = None
    """Shown in headers, metrics and logs; `host:port` when absent."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError(f"url must read http://host:port, got {self.url!r}")
        try:
            usable = parts.port != 0
        except ValueError:  # no number, or too great a one
            usable = False
        if not usable:
            raise ValueError(f"url must have a port from 1 to 65535 or none, got {self.url!r}")
        if self.name is not None and not (self.name.isascii() and self.name.isprintable()):
            raise ValueError(f"name must be printable ASCII, got {self.name!r}")

    @property
    def host(self) -> str:
        """Host of the API."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """Port of the API."""
        return urlsplit(self.url).port or 80

    @property
    def title(self) -> str:
        """The name, given or derived."""
        return self.name or f"{self.host}:{self.port}"


class Timeouts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long each phase may take. There is no total: a long answer is not a fault."""

    connect_s: Seconds = 2.0
    """Making a connection to a worker."""
    prefill_s: Seconds = 300.0
    """From sending the prefill leg to its whole answer."""
    first_byte_s: Seconds = 300.0
    """From sending the decode leg to the first byte of its body."""
    between_chunks_s: Seconds = 60.0
    """From one read of the answer to the next, while the client takes them."""
    client_stall_s: Seconds = 300.0
    """How long a client may take nothing of an answer that waits for it."""
    client_idle_s: Seconds = 75.0
    """How long a kept-alive client connection may stay silent between requests."""
    client_request_s: Seconds = 60.0
    """How long a client may pause within one request."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of anything is taken."""

    body_bytes: Count = 64 * 1024 * 1024
    """Longest request body; a longer one is answered 413."""
    head_bytes: Count = 64 * 1024
    """Longest request head; a longer one is answered 431."""
    idle_connections: Annotated[int, msgspec.Meta(ge=0)] = 1024
    """Kept-alive connections per worker."""
    replay_bytes: Annotated[int, msgspec.Meta(ge=0)] = 64 * 1024 * 1024
    """Kept of streams under way, so that they can be continued elsewhere; 0: those that break off end."""
    lost_attempts: Count = 3
    """Workers that may die or hang with a request before it is given up: it may be what kills them."""


class Probing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How workers are watched."""

    interval_s: Seconds = 2.0
    """Between looks at a ready worker."""
    timeout_s: Seconds = 2.0
    backoff_first_s: Seconds = 0.1
    """Between looks at a worker that is out: doubles up to `backoff_longest_s`."""
    backoff_longest_s: Seconds = 3.0
    handshake_timeout_s: Seconds = 30.0


class PolicyReload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a policy file that changes is taken over."""

    interval_s: Seconds = 1.0
    """Between looks at whether it changed."""
    rehearsed_s: Seconds = 120.0
    """A new policy first decides on the requests of the last so many seconds, without consequences."""
    rehearsed_requests: Count = 256
    """At most so many of them."""


def worker_of_flag(text: str, role: Role) -> dict[str, str]:
    """Return what a flag says of a worker: its URL, after its kind and a plus if it is not `baton`.

    `http://host:8100`, `vllm+http://host:8100`, `sglang+http://host:8100`
    """
    kind, plus, url = text.partition("+")
    known = {"url": url, "kind": kind} if plus and kind.isalpha() else {"url": text}
    return known | {"role": role.value}


def is_policy_file(policy: str) -> bool:
    """Whether a configured policy is the path of a file, not a name."""
    return policy.endswith((".yaml", ".yml"))


class ProxyConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One proxy and its fleet."""

    workers: tuple[WorkerAddress, ...] = ()
    """Those that are always listed; at least one, unless `discovery` finds them."""
    discovery: tuple[DiscoverySettings, ...] = ()
    """Where more workers are listed: files, DNS, Kubernetes."""
    admin_token_file: str | None = None
    """File with the bearer token that admin calls must bring; absent: there are no admin calls."""
    worker_drain_s: Seconds = 600.0
    """How long a worker that is to be removed may take to end what it has."""
    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8000
    """0: a free port."""
    processes: Count = 1
    """Processes that share the port and know of each other's work."""
    policy: str = "pair_cost"
    """A policy's name, or the path of a policy file (.yaml), which is read again when it changes."""
    model_policies: dict[str, str] = {}
    """Other policies, for some models."""
    shadow_policy: str | None = None
    """One that is asked beside `policy`, and not followed: how often it differs is counted."""
    policy_reload: PolicyReload = PolicyReload()
    explained_requests: Count = 1024
    """So many of the last requests can be explained."""
    output_tokens_guess: Count = 256
    """Expected length of an answer whose request sets no limit."""
    admission: AdmissionConfig = AdmissionConfig()
    tenants_file: str | None = None
    """YAML file of tenants and API keys; absent: one tenant, and no key is asked for."""
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    probing: Probing = Probing()
    drain_grace_s: Seconds = 30.0
    """How long streams may go on after SIGTERM."""

    def __post_init__(self) -> None:
        named = {"policy": self.policy, "shadow_policy": self.shadow_policy or self.policy}
        named |= {f"model_policies.{model}": policy for model, policy in self.model_policies.items()}
        for key, policy in named.items():
            if not is_policy_file(policy) and policy not in DEFAULTS:
                raise ValueError(
                    f"{key} must be a .yaml file or one of {', '.join(DEFAULTS)}, got {policy!r}"
                )
        titles = [worker.title for worker in self.workers]
        if twice := {title for title in titles if titles.count(title) > 1}:
            raise ValueError(f"workers: these stand twice: {', '.join(sorted(twice))}")
        if not self.workers and not self.discovery:
            raise ValueError("workers: at least one is needed where discovery names no source")
        if not self.discovery and not any(worker.role is not Role.PREFILL for worker in self.workers):
            raise ValueError("workers: at least one must have role decode or both")


def load_config(path: Path) -> ProxyConfig:
    """Read a fleet file. Raises `ConfigError`, which names the file and the path of the bad key."""
    try:
        tree = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    try:
        return msgspec.convert(tree, ProxyConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}") from error
