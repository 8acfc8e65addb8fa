"""A watched file: its changes are followed, its mistakes are told and change nothing."""

import asyncio
import os
from pathlib import Path

import pytest

from baton.proxy.config import ConfigError
from baton.proxy.discovery.file_source import FileSource, read_worker_file
from baton.proxy.discovery.settings import FileSettings

from .listening import heard_warnings, running

ONE = 'workers: [{url: "http://h:1", role: decode}]'
TWO = 'workers: [{url: "http://h:1", role: decode}, {url: "http://h:2", role: prefill, name: p}]'


def source_of(path: Path) -> FileSource:
    return FileSource(FileSettings(path=str(path), interval_s=0.001))


def replace(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, path)


async def test_a_file_that_is_written_or_replaced_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "workers.yaml"
    path.write_text(ONE)
    async with running(source_of(path)) as lists:
        assert await lists.next() == ["h:1"]
        await asyncio.to_thread(replace, path, TWO)
        assert await lists.next() == ["h:1", "p"]
        await asyncio.to_thread(path.write_text, "workers: []")
        await lists.until([])


async def test_after_a_mistake_the_last_list_stands_until_it_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "workers.yaml"
    path.write_text(TWO)
    source = source_of(path)
    with heard_warnings() as warned:
        async with running(source) as lists:
            assert await lists.next() == ["h:1", "p"]
            await asyncio.to_thread(replace, path, ONE.replace("decode", "decoder"))
            assert "$.workers[0].role" in await warned.next()
            assert lists.waiting == 0
            await asyncio.to_thread(replace, path, ONE)
            assert await lists.next() == ["h:1"]
            assert source.problem is None


async def test_a_file_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "workers.yaml"
    source = source_of(path)
    with heard_warnings() as warned:
        async with running(source) as lists:
            assert "No such file" in await warned.next()
            assert "No such file" in (source.problem or "")
            await asyncio.to_thread(replace, path, ONE)
            assert await lists.next() == ["h:1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("workers: [", "not YAML"),
        ("", "Expected `object`"),
        ("workers: []\nworker: []", "unknown field `worker`"),
        ('workers: [{url: "https://h:1", role: decode}]', r"\$\.workers\[0\]"),
        (
            'workers: [{url: "http://h:1", role: decode}, {url: "http://h:1", role: prefill}]',
            "stand twice: h:1",
        ),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "workers.yaml"
    path.write_text(text)

    with pytest.raises(ConfigError, match=message) as error:
        read_worker_file(path)
    assert str(error.value).startswith(str(path))
