"""Whose requests these are: tenants, their API keys, and the terms that a request waits under.

Keys are known by their SHA-256 only. The file is read by `proxy/tenant_file.py`; here is what it means. No
I/O.
"""

import hashlib
from typing import Annotated

import msgspec

LOWEST_PRIORITY = -100
HIGHEST_PRIORITY = 100
Priority = Annotated[int, msgspec.Meta(ge=LOWEST_PRIORITY, le=HIGHEST_PRIORITY)]
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class UnknownKeyError(ValueError):
    """No key where one is required, or one that is not listed."""


class TenantConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one tenant is entitled to when the fleet is full."""

    weight: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    """Share of the tokens, beside the other tenants who wait at the same priority."""
    priority: Priority = 0
    """Of requests that ask for none; higher goes first."""
    highest_priority: Priority = 0
    """The most that a request may ask for; more counts as this."""
    max_wait_s: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Longest wait in the queue; absent: the queue's own limit, which also bounds this one."""
    queued_requests: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Requests in the queue at most; absent: as many as the queue takes."""

    def __post_init__(self) -> None:
        if self.priority > self.highest_priority:
            raise ValueError(
                f"priority must not exceed highest_priority, got {self.priority} > {self.highest_priority}"
            )


class KeyConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One API key."""

    sha256: Digest
    """Of the key's bytes, in hexadecimal: `printf %s KEY | sha256sum`."""
    tenant: str
    priority: Priority | None = None
    """Of requests that ask for none; absent: the tenant's."""


class TenantsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All tenants and keys."""

    tenants: dict[str, TenantConfig]
    keys: tuple[KeyConfig, ...] = ()
    anonymous: str | None = None
    """Tenant of requests without a key; absent: a key is required."""

    def __post_init__(self) -> None:
        for position, key in enumerate(self.keys):
            if key.tenant not in self.tenants:
                raise ValueError(f"keys[{position}].tenant: there is no tenant {key.tenant!r}")
            limit = self.tenants[key.tenant].highest_priority
            if key.priority is not None and key.priority > limit:
                raise ValueError(f"keys[{position}].priority exceeds the tenant's highest_priority, {limit}")
        if self.anonymous is not None and self.anonymous not in self.tenants:
            raise ValueError(f"anonymous: there is no tenant {self.anonymous!r}")
        digests = [key.sha256 for key in self.keys]
        if twice := [at for at, digest in enumerate(digests) if digest in digests[:at]]:
            raise ValueError(f"keys[{twice[0]}].sha256 stands twice")


OPEN_HOUSE = TenantsConfig(
    tenants={"default": TenantConfig(highest_priority=HIGHEST_PRIORITY)}, anonymous="default"
)
"""Without a tenant file: one tenant, any priority, no keys."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What one request is entitled to."""

    tenant: str
    weight: float = 1.0
    priority: int = 0
    max_wait_s: float | None = None
    """Longest wait; None: the queue's own limit."""
    tenant_queued_requests: int | None = None


class Tenants:
    """Finds the terms of a request."""

    def __init__(self, config: TenantsConfig) -> None:
        self._config = config
        self._keys = {key.sha256: key for key in config.keys}
        self._usual: dict[str | None, Terms] = {}
        """Of requests without a priority or a wait of their own, by the digest of their key."""

    def terms(self, key: bytes | None, *, priority: int | None, max_wait_s: float | None) -> Terms:
        """Return the terms of a request with this API key that asks for `priority` and `max_wait_s`.

        Raises `UnknownKeyError`. More than the tenant may have is cut down to what it may.
        """
        digest = None if key is None or not self._keys else hashlib.sha256(key).hexdigest()
        if priority is None and max_wait_s is None and (usual := self._usual.get(digest)) is not None:
            return usual
        terms = self._cut(key is None, digest, priority, max_wait_s)
        if priority is None and max_wait_s is None:
            self._usual[digest] = terms  # at most one for each key that is listed
        return terms

    def _cut(
        self, keyless: bool, digest: str | None, priority: int | None, max_wait_s: float | None
    ) -> Terms:
        name, default = self._find(keyless, digest)
        tenant = self._config.tenants[name]
        asked = default if priority is None else priority
        waits = [wait for wait in (max_wait_s, tenant.max_wait_s) if wait is not None]
        return Terms(
            tenant=name,
            weight=tenant.weight,
            priority=max(LOWEST_PRIORITY, min(asked, tenant.highest_priority)),
            max_wait_s=min(waits, default=None),
            tenant_queued_requests=tenant.queued_requests,
        )

    def _find(self, keyless: bool, digest: str | None) -> tuple[str, int]:
        config = self._config
        known = None if digest is None else self._keys.get(digest)
        if known is not None:
            default = config.tenants[known.tenant].priority if known.priority is None else known.priority
            return known.tenant, default
        # A key that opens nothing is a mistake to be told, unless there are no keys to get wrong.
        if config.anonymous is not None and (keyless or not self._keys):
            return config.anonymous, config.tenants[config.anonymous].priority
        raise UnknownKeyError("an API key is required" if keyless else "the API key is not known")
