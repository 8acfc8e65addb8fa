"""How a worker joins ranks that serve: it asks one of them where they meet, and calls on rank 0.

A thin shell: connections and waiting; what is said is in `messages`.
"""

import datetime
import http.client
import socket
import time
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from ..checkpoint.reader import Checkpoint
from ..config import WorkerConfig
from ..models.architectures import read_model_config
from ..models.digest import model_digest
from .door import LONGEST_LINE
from .errors import GroupFailedError, NotAdmittedError
from .link import Link
from .messages import Enter, FromNewcomer, Invitation, Knock, Loaded, Refusal, Terms, ToNewcomer, Welcome

DOOR_PORT = "baton/door_port"
FIND_S = 15.0
"""How long a newcomer looks for rank 0, which may be changing."""
LOOK_S = 0.2
ANSWER_S = 300.0
"""How long rank 0 may take to answer: others may be joining, and the ranks read their new experts."""

T = TypeVar("T", Invitation, Enter, Welcome)

_decoder: msgspec.json.Decoder[ToNewcomer] = msgspec.json.Decoder(Invitation | Enter | Welcome | Refusal)


class Admission:
    """A newcomer's line to rank 0."""

    def __init__(self, connection: socket.socket, terms: Terms) -> None:
        """Knock, and wait to be invited. Raises `NotAdmittedError`, or `OSError` of the connection."""
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._say(Knock(terms=terms))
        self.ranks = self._hear(Invitation).ranks
        """This worker's place."""

    def enter(self, link: Link) -> None:
        """Return once this rank takes part in steps. Raises `NotAdmittedError`."""
        self._say(Loaded())
        self._hear(Enter)
        link.prove(self.ranks.timeout_s)  # where it fails, rank 0 knows
        self._hear(Welcome)
        self.close()

    def failure(self, error: GroupFailedError) -> NotAdmittedError:
        """Return why the meeting failed, in rank 0's words if it has any."""
        self._connection.settimeout(LOOK_S)
        try:
            self._hear(Welcome)
        except NotAdmittedError as refused:
            return refused
        return NotAdmittedError(str(error))

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._connection.close()

    def _say(self, message: FromNewcomer) -> None:
        try:
            self._connection.sendall(msgspec.json.encode(message) + b"\n")
        except OSError as error:
            raise NotAdmittedError(f"rank 0 is gone: {error}") from error

    def _hear(self, kind: type[T]) -> T:
        try:
            line = self._lines.readline(LONGEST_LINE)
        except OSError as error:
            raise NotAdmittedError(f"rank 0 said nothing: {error}") from error
        if not line:
            raise NotAdmittedError("rank 0 has hung up")
        message = _decoder.decode(line)
        if isinstance(message, Refusal):
            raise NotAdmittedError(message.reason)
        assert isinstance(message, kind)
        return message


def call_on(url: str, config: WorkerConfig) -> Admission:
    """Find the ranks that the worker at `url` is one of; return once invited. Raises `NotAdmittedError`."""
    terms = terms_of(config)
    deadline = time.monotonic() + FIND_S
    while True:
        try:
            connection = _reach_rank_0(url)
            break
        except (OSError, RuntimeError, http.client.HTTPException, msgspec.DecodeError) as error:
            if time.monotonic() > deadline:
                raise NotAdmittedError(f"the ranks of {url} cannot be reached: {error}") from error
        time.sleep(LOOK_S)
    return Admission(connection, terms)


def terms_of(config: WorkerConfig) -> Terms:
    """Return what this worker brings that must fit."""
    folder = Path(config.model)
    return Terms(
        model=model_digest(read_model_config(folder), Checkpoint(folder)),
        role=config.role.value,
        dtype=config.dtype,
        keep_fp8=config.keep_fp8,
        max_num_seqs=config.max_num_seqs,
        bucket_sizes=config.bucket_sizes,
    )


class _Place(msgspec.Struct, frozen=True):
    host: str
    port: int


class _Ranks(msgspec.Struct, frozen=True):
    meeting: _Place


class _Ready(msgspec.Struct, frozen=True):
    ranks: _Ranks | None = None


def _reach_rank_0(url: str) -> socket.socket:
    place = _meeting_place(url)
    timeout = datetime.timedelta(seconds=FIND_S)
    store = TCPStore(place.host, place.port, is_master=False, timeout=timeout, wait_for_workers=False)
    port = int(store.get(DOOR_PORT))
    return socket.create_connection((place.host, port), ANSWER_S)


def _meeting_place(url: str) -> _Place:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=FIND_S)
    try:
        connection.request("GET", "/ready")
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise OSError(f"/ready answered {answer.status}")
    ranks = msgspec.json.decode(body, type=_Ready).ranks
    if ranks is None:
        raise OSError("it is no rank of a group that takes newcomers")
    return ranks.meeting
