"""Headers become terms; what is not understood is told, and a refusal says when to come back."""

import hashlib

import pytest

from baton.proxy.body import BodyError
from baton.proxy.request import ClientRequest
from baton.proxy.routing.tenants import OPEN_HOUSE, KeyConfig, TenantConfig, Tenants, TenantsConfig, Terms
from baton.proxy.routing.ticket import Ticket
from baton.proxy.routing.verdict import RefusalReason, Refuse
from baton.proxy.routing.view import RequestView
from baton.proxy.terms import read_terms, refusal

LOCKED = Tenants(
    TenantsConfig(
        tenants={"acme": TenantConfig(highest_priority=5)},
        keys=(KeyConfig(sha256=hashlib.sha256(b"secret").hexdigest(), tenant="acme"),),
    )
)


def terms(*headers: tuple[bytes, bytes], tenants: Tenants = LOCKED) -> Terms:
    request = ClientRequest()
    request.headers += headers
    request.sort_headers()
    return read_terms(request.given, tenants)


def test_key_priority_and_patience_are_read() -> None:
    found = terms(
        (b"Authorization", b"Bearer secret"),
        (b"X-Baton-Priority", b" 3 "),
        (b"x-baton-queue-timeout-ms", b"2500"),
    )

    assert (found.tenant, found.priority, found.max_wait_s) == ("acme", 3, 2.5)


def test_without_headers_the_defaults_hold() -> None:
    found = terms(tenants=Tenants(OPEN_HOUSE))

    assert (found.tenant, found.priority, found.max_wait_s) == ("default", 0, None)


@pytest.mark.parametrize(
    "header", [(b"X-Other", b""), (b"Authorization", b"Bearer wrong"), (b"Authorization", b"x")]
)
def test_no_key_or_a_wrong_one_is_a_401(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(BodyError) as refused:
        terms(header)
    assert (refused.value.error.status, refused.value.error.code) == (401, "invalid_api_key")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"X-Baton-Priority", b"high"),
        (b"X-Baton-Priority", b"1.5"),
        (b"X-Baton-Priority", b"9" * 5000),
        (b"X-Baton-Priority", "\N{SUPERSCRIPT TWO}".encode("latin-1")),
        (b"X-Baton-Queue-Timeout-Ms", b"0"),
        (b"X-Baton-Queue-Timeout-Ms", b""),
    ],
)
def test_a_header_that_is_no_number_is_a_400_that_names_it(name: bytes, value: bytes) -> None:
    with pytest.raises(BodyError) as refused:
        terms((name, value), tenants=Tenants(OPEN_HOUSE))
    assert (refused.value.error.status, refused.value.error.param) == (400, name.decode())


@pytest.mark.parametrize("reason", list(RefusalReason))
def test_a_refusal_says_why_and_when_to_come_back(reason: RefusalReason) -> None:
    view = RequestView("r", "demo", prompt_tokens=1, output_tokens=1)

    error = refusal(Refuse(Ticket(view, Terms(tenant="t")), reason, 7))

    assert error.status == (503 if reason is RefusalReason.NO_WORKERS else 429)
    assert b"Retry-After: 7\r\n" in error.answer(request_id=None, close=False)
