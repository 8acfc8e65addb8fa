"""`baton up` calls its proxy with the token that the proxy asks for, whoever chose it."""

import asyncio
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from baton.cli.fleet_messages import Address
from baton.cli.proxy_admin import ProxyAdmin, token_file_among
from baton.cli.settings import SettingsError


def guarded(file: Path) -> web.Application:
    """Asks for the token in `file` as `proxy/workers_api.py` does."""

    async def add(request: web.Request) -> web.Response:
        token = (await asyncio.to_thread(file.read_text)).strip()
        right = request.headers.get("Authorization") == f"Bearer {token}"
        return web.json_response({"name": "decode-1"}, status=201 if right else 401)

    app = web.Application()
    app.router.add_post("/admin/workers", add)
    return app


def test_the_last_token_file_that_is_named_counts(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("secret\n")
    settings = ["processes=2", f"admin_token_file={tmp_path}/a", f"admin_token_file={tmp_path}/b"]

    assert token_file_among(settings) == tmp_path / "b"
    assert token_file_among(settings[:1]) is None


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "No such file"), (b" \n", "empty"), (b"\xff\xfe", "not text")]
)
def test_a_file_without_a_token_is_refused_with_the_flag(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(SettingsError, match=f"--proxy-set admin_token_file={file}: .*{problem}"):
        token_file_among([f"admin_token_file={file}"])


def test_a_proxy_that_would_take_no_admin_calls_is_refused_with_the_flag() -> None:
    with pytest.raises(SettingsError, match=r"--proxy-set admin_token_file=None: .*`baton ranks` needs one"):
        token_file_among(["admin_token_file=null"])


async def test_calls_bring_the_token_that_the_file_holds_now(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    async with TestServer(guarded(file)) as server:
        assert server.port is not None
        proxy, admin = Address(host="127.0.0.1", port=server.port), ProxyAdmin(file)

        assert await admin.add(proxy, {"name": "decode-1"}) is None
        file.write_text("second\n")
        assert await admin.add(proxy, {"name": "decode-1"}) is None
        file.unlink()
        assert await admin.add(proxy, {"name": "decode-1"}) == f"{file}: No such file or directory"
