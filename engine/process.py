"""The engine process of a worker. Its frontend starts it, and it never outlives its frontend.

    python -m baton.engine.process --config worker.json --ipc /run/worker/engine.ipc

`--config` is a `WorkerConfig` as JSON; the frontend binds a ZMQ pair socket at `--ipc`, this process
connects. It reports `Loading`, then `EngineReady`, then serves until `Shutdown`. Exit status: 0 after a
shutdown, 1 after `EngineFatal`, 2 when the frontend has died. SIGTERM ends it while it loads and is ignored
afterwards: it may have been sent to a whole process group, and it is the frontend that drains.
"""

import argparse
import contextlib
import logging
import os
import signal
import sys
import time
from pathlib import Path

import msgspec
import torch
from msgspec.structs import replace

from ..kvtransfer.event_publisher import KvEventPublisher
from .assembly import assemble, load, make_pool, make_service
from .config import WorkerConfig
from .host_memory import keep_freed_memory
from .inbox import ProcessInbox
from .kv_events import KvEventLog
from .loop import EngineLoop
from .messages import EngineFatal, Loading
from .ranks.errors import GroupFailedError
from .ranks.group import RankGroup
from .ranks.newcomer import call_on

logger = logging.getLogger(__name__)


class OrphanedError(Exception):
    """The frontend process has died."""


def main(arguments: list[str] | None = None) -> int:
    """Run one engine; return the exit status."""
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    keep_freed_memory()
    inbox = ProcessInbox(options.ipc if "://" in options.ipc else f"ipc://{options.ipc}")
    try:
        run(msgspec.json.decode(options.config.read_bytes(), type=WorkerConfig), inbox, os.getppid())
    except OrphanedError:
        logger.warning("the frontend has died; the engine ends")
        inbox.close(farewell_s=0.0)
        return 2
    except Exception as error:
        logger.exception("the engine cannot go on")
        inbox.send(EngineFatal(message=f"{type(error).__name__}: {error}"))
        inbox.close()
        return 1
    inbox.close()
    return 0


def run(config: WorkerConfig, inbox: ProcessInbox, parent: int) -> None:
    """Load, report ready, and loop until shut down. Raises `OrphanedError` once `parent` is gone."""

    def check_parent() -> None:
        if os.getppid() != parent:
            raise OrphanedError

    def on_progress(stage: str, done: int, total: int) -> None:
        check_parent()
        inbox.send(Loading(stage=stage, done=done, total=total))

    with contextlib.ExitStack() as open_parts:
        config, group = _join_ranks(config, inbox, open_parts)
        model = load(config, on_progress, group)
        kv = make_pool(config, model)
        service = make_service(config, model, kv)
        open_parts.callback(service.close)
        service.start(inbox.post)
        events = _event_log(config, open_parts)
        engine = assemble(config, model, kv, service, events, group=group, on_progress=on_progress)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        inbox.send(engine.ready)
        EngineLoop(
            scheduler=engine.scheduler,
            runner=engine.runner,
            service=service,
            inbox=inbox,
            clock=time.monotonic,
            stats_interval_s=config.stats_interval_s,
            check_parent=check_parent,
            publish=_nothing if events is None else events.flush,
            pace=engine.pace,
            run_ahead=config.runs_ahead,
        ).run()


def _join_ranks(
    config: WorkerConfig, inbox: ProcessInbox, open_parts: contextlib.ExitStack
) -> tuple[WorkerConfig, RankGroup | None]:
    """Meet the ranks that share the model's experts, if this worker is one of several."""
    admission = None
    if config.join is not None:
        admission = call_on(config.join, config)
        config = replace(config, join=None, ranks=admission.ranks)
    if config.ranks is None:
        return config, None
    try:
        group = RankGroup(config.ranks, torch.device(config.device), inbox.ring, admission)
    except GroupFailedError as error:
        if admission is None:
            raise
        raise admission.failure(error) from error
    open_parts.callback(group.close)
    return config, group


def _event_log(config: WorkerConfig, open_parts: contextlib.ExitStack) -> KvEventLog | None:
    """Open the KV-event stream, if one is configured."""
    if config.kv_events.endpoint is None:
        return None
    publisher = KvEventPublisher(
        endpoint=config.kv_events.endpoint,
        replay_endpoint=config.kv_events.replay_endpoint,
        topic=config.kv_events.topic,
        buffer_steps=config.kv_events.buffer_steps,
    )
    open_parts.callback(publisher.close)
    return KvEventLog(publisher, config.block_tokens)


def _nothing() -> None:
    """Publish nothing."""


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m baton.engine.process", description="The engine of a worker."
    )
    parser.add_argument("--config", type=Path, required=True, help="a WorkerConfig as JSON")
    parser.add_argument(
        "--ipc", required=True, help="where the frontend's pair socket is bound: a path or an ipc:// URL"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
