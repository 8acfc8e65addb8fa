"""A key opens what its tenant may have, and nothing more."""

import hashlib

import msgspec
import pytest

from baton.proxy.routing.tenants import OPEN_HOUSE, Tenants, TenantsConfig, UnknownKeyError


def digest(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


def config(**changes: object) -> dict[str, object]:
    return {
        "tenants": {
            "acme": {"weight": 2.0, "priority": 1, "highest_priority": 5, "max_wait_s": 20.0},
            "guest": {"priority": -1, "queued_requests": 3},
        },
        "keys": [
            {"sha256": digest(b"plain"), "tenant": "acme"},
            {"sha256": digest(b"batch"), "tenant": "acme", "priority": -5},
        ],
    } | changes


def tenants(**changes: object) -> Tenants:
    return Tenants(msgspec.convert(config(**changes), TenantsConfig))


def test_a_request_gets_the_priority_of_its_key_or_its_tenant() -> None:
    known = tenants()

    assert known.terms(b"plain", priority=None, max_wait_s=None).priority == 1
    assert known.terms(b"batch", priority=None, max_wait_s=None).priority == -5
    assert known.terms(b"batch", priority=3, max_wait_s=None).priority == 3


def test_more_than_the_tenant_may_have_is_cut_down() -> None:
    terms = tenants().terms(b"plain", priority=50, max_wait_s=100.0)

    assert (terms.tenant, terms.weight, terms.priority, terms.max_wait_s) == ("acme", 2.0, 5, 20.0)
    assert tenants().terms(b"plain", priority=0, max_wait_s=3.0).max_wait_s == 3.0


def test_a_key_is_required_unless_there_is_an_anonymous_tenant() -> None:
    with pytest.raises(UnknownKeyError, match="required"):
        tenants().terms(None, priority=None, max_wait_s=None)
    terms = tenants(anonymous="guest").terms(None, priority=None, max_wait_s=None)
    assert (terms.tenant, terms.priority, terms.tenant_queued_requests) == ("guest", -1, 3)


def test_a_wrong_key_is_refused_even_where_none_is_needed() -> None:
    with pytest.raises(UnknownKeyError, match="not known"):
        tenants(anonymous="guest").terms(b"wrong", priority=None, max_wait_s=None)


def test_without_keys_whatever_a_client_sends_as_one_is_let_through() -> None:
    terms = Tenants(OPEN_HOUSE).terms(b"sk-anything", priority=7, max_wait_s=None)

    assert (terms.tenant, terms.priority) == ("default", 7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keys": [{"sha256": "secret", "tenant": "acme"}]}, r"keys\[0\]\.sha256"),
        ({"keys": [{"sha256": digest(b"x"), "tenant": "nobody"}]}, r"keys\[0\]\.tenant: .*'nobody'"),
        ({"keys": [{"sha256": digest(b"x"), "tenant": "acme", "priority": 9}]}, r"keys\[0\]\.priority"),
        ({"keys": [{"sha256": digest(b"x"), "tenant": "acme"}] * 2}, r"keys\[1\]\.sha256 stands twice"),
        ({"anonymous": "nobody"}, "anonymous: .*'nobody'"),
        ({"tenants": {"acme": {"priority": 1}}, "keys": []}, "priority must not exceed"),
        ({"tenants": {"acme": {"wait": 1}}, "keys": []}, r"unknown field `wait`.*tenants"),
    ],
)
def test_a_bad_configuration_is_refused_with_the_place_of_the_fault(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        tenants(**changes)
