"""One worker: the HTTP frontend in this process, the engine as its child.

1. Load the tokenizer; a folder that cannot be served ends here.
2. Listen: `/health` answers, `/ready` says that the engine is loading.
3. Start the engine process and forward its progress; when it is ready, requests are served.
4. On SIGTERM or SIGINT: refuse new requests, finish running ones within `drain_grace_s`, end the engine.
   A second signal ends everything at once. SIGUSR1 does the same, but a rank's group goes on without it;
   if the group cannot, this worker serves on.
5. An engine that ends by itself fails every open request and ends the worker with status 1.

Standard output carries one JSON object a line for whoever started the worker (`loading`, `listening`,
`ready`, `left`, `stays`, `fatal`); people's logs go to standard error. `baton prefill` and `baton decode`
call `run_worker`.
"""

import asyncio
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

import msgspec
import uvloop

from .api.engine_client import EngineClient, EngineState
from .api.engine_process import EngineProcess, engine_command
from .api.frontend import Frontend, open_tokenizer
from .api.server import listening, make_app
from .config import WorkerConfig
from .messages import EngineReady, Loading, RequestFailed
from .text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

EXIT_GRACE_S = 5.0
"""Beyond the grace it was given, the engine gets this long to end before it is killed."""

LEAVE_S = 600.0
"""The same where it leaves its ranks, which take their time to get ready."""

LOADING_INTERVAL_S = 0.05

INTERRUPTED_STATUS = 130
"""Exit status after a second signal: 128 + SIGINT, as shells say it."""

CommandLine = Callable[[Path, Path], list[str]]
"""The engine's command line, from the paths of its configuration and its socket."""


def run_worker(config: WorkerConfig, engine: CommandLine = engine_command) -> None:
    """Serve until told to stop. Raises `SystemExit` with a status other than 0 when it could not."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        tokenizer = open_tokenizer(config)
    except (ValueError, OSError) as error:
        _say({"event": "fatal", "message": str(error)})
        raise SystemExit(1) from error
    config = msgspec.structs.replace(config, served_model_name=_model_name(config))
    with tempfile.TemporaryDirectory(prefix="baton-") as folder:
        status = uvloop.run(Worker(config, tokenizer, Path(folder), engine).serve())
    if status != 0:
        raise SystemExit(status)


class Worker:
    """The shell around a frontend and its engine process."""

    def __init__(self, config: WorkerConfig, tokenizer: Tokenizer, folder: Path, engine: CommandLine) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._folder = folder
        self._ipc_path = folder / "engine.ipc"
        config_path = folder / "config.json"
        config_path.write_bytes(msgspec.json.encode(config))
        self._command = engine(config_path, self._ipc_path)
        self._fatal: str | None = None
        self._leaves_ranks = self._stays = False
        self._told_loading_at = 0.0
        self._stop = asyncio.Event()
        self._settled = asyncio.Event()
        """The engine has ended, or it serves on."""
        self._frontend: Frontend
        self._process: EngineProcess | None = None

    async def serve(self) -> int:
        """Run until a signal or the engine's end; return the exit status."""
        client = EngineClient(self._ipc_path, self)
        self._frontend = Frontend(self._config, self._tokenizer, client)
        try:
            async with asyncio.TaskGroup() as tasks:
                return await self._serve(tasks, client)
        except* OSError as errors:
            message = f"cannot listen on {self._config.host}:{self._config.port}: {errors.exceptions[0]}"
            _say({"event": "fatal", "message": message})
        finally:
            self._frontend.close()
            client.close_socket()
        return 1

    async def _serve(self, tasks: asyncio.TaskGroup, client: EngineClient) -> int:
        self._handle_signals()
        async with listening(make_app(self._frontend), self._config.host, self._config.port) as address:
            self._frontend.set_address(*address)
            _say({"event": "listening", "host": address[0], "port": address[1]})
            self._process = process = await EngineProcess.start(self._command)
            engine = tasks.create_task(self._watch_engine(client, process), name="engine process")
            try:
                while True:
                    await self._stop.wait()
                    if client.state is EngineState.LOST:
                        return await self._end_without_engine()
                    await self._drain(client, process)
                    if not self._stays:
                        await asyncio.wait([engine])
                        return 0
                    self._serve_on()
            finally:
                process.kill()

    async def _watch_engine(self, client: EngineClient, process: EngineProcess) -> None:
        how = await process.run()
        if not self._frontend.draining:
            reason = self._fatal or f"{how}; its last lines:\n{process.last_lines()}"
            _say({"event": "fatal", "message": f"the engine process ended: {reason}"})
        client.lost(how)
        self._settled.set()
        self._stop.set()

    async def _end_without_engine(self) -> int:
        """Let the open requests tell their clients before the connections close."""
        self._frontend.draining = True
        await _within(EXIT_GRACE_S, self._frontend.idle.wait())
        return 1

    async def _drain(self, client: EngineClient, process: EngineProcess) -> None:
        """Finish what runs, then end the engine, which in turn waits for its leases, and for other ranks."""
        if self._leaves_ranks:
            client.leave_ranks()
        deadline = time.monotonic() + self._config.drain_grace_s
        await _within(self._config.drain_grace_s, self._frontend.idle.wait())
        grace_s = max(0.0, deadline - time.monotonic())
        if client.state is EngineState.LOADING:
            grace_s = 0.0
            process.terminate()
        else:
            client.shut_down(grace_s)
        patience_s = LEAVE_S if self._leaves_ranks else EXIT_GRACE_S
        if not await _within(grace_s + patience_s, self._settled.wait()):
            logger.warning("the engine did not end in time and is killed")
            process.kill()
            await self._settled.wait()
        if not self._stays:
            await _within(EXIT_GRACE_S, self._frontend.idle.wait())

    def _serve_on(self) -> None:
        """Take requests again: the ranks that were to be left cannot do without this one."""
        self._stays = self._leaves_ranks = self._frontend.draining = False
        self._stop.clear()
        self._settled.clear()

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        loop.add_signal_handler(signal.SIGUSR1, self._on_leave)

    def _on_leave(self) -> None:
        self._leaves_ranks = True
        self._on_signal()

    def _on_signal(self) -> None:
        if self._frontend.draining:
            if self._process is not None:
                self._process.kill()
            shutil.rmtree(self._folder, ignore_errors=True)
            os._exit(INTERRUPTED_STATUS)
        logger.info("stopping: new requests are refused, running ones may finish")
        self._frontend.draining = True
        self._stop.set()

    def on_loading(self, progress: Loading) -> None:
        """Pass the engine's progress on, a few lines a second."""
        now = time.monotonic()
        if progress.done < progress.total and now - self._told_loading_at < LOADING_INTERVAL_S:
            return
        self._told_loading_at = now
        _say({"event": "loading", **msgspec.structs.asdict(progress)})

    def on_ready(self, ready: EngineReady) -> None:
        """Say that requests are served from now on."""
        _say({"event": "ready", "name": self._frontend.name, "incarnation": ready.incarnation})

    def on_fatal(self, message: str) -> None:
        """Keep the engine's own words for the report of its end."""
        self._fatal = message

    def on_leave_result(self, stays_because: str | None) -> None:
        """Say that this worker has left its ranks, or serves on."""
        if stays_because is None:
            _say({"event": "left"})
            return
        logger.warning("serving on: the other ranks cannot do without this one: %s", stays_because)
        self._stays = True
        self._settled.set()
        _say({"event": "stays", "message": stays_because})

    def on_failure(self, failed: RequestFailed) -> None:
        """Count a request that the engine failed."""
        self._frontend.metrics.count_failure(failed.kind.value)


def _model_name(config: WorkerConfig) -> str:
    """The folder's own name, also where the path is relative or ends in a link."""
    return config.served_model_name or Path(config.model).absolute().name


async def _within(timeout_s: float, wait: Coroutine[None, None, bool]) -> bool:
    """Await at most `timeout_s`; tell whether it was enough."""
    try:
        async with asyncio.timeout(timeout_s):
            return await wait
    except TimeoutError:
        logger.warning("still waiting after %.1f s", timeout_s)
        return False


def _say(event: dict[str, object]) -> None:
    """Tell whoever started this worker; nobody may be listening."""
    try:
        sys.stdout.write(msgspec.json.encode(event).decode() + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        logger.debug("nobody reads the events")
