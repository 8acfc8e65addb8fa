"""How each router is started in front of a fleet, and when it is ready."""

import asyncio
import contextlib
import enum
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from baton.proxy.routing.router import POLICIES

from ...cli.free_port import free_ports
from .client import ask
from .compiled import BenchError, Ports
from .cores import Cores

START_TIMEOUT_S = 60.0
STARTS = 3
"""A free port may be taken by a connection before the router has it."""
STOP_TIMEOUT_S = 10.0
BOOTSTRAP_PORT = "9000"
"""Only told to workers; the mocks do not open it."""


class Family(enum.Enum):
    """Whose router."""

    DIRECT = "direct"
    VLLM = "vllm-router"
    SGLANG = "sglang-router"
    BATON = "baton"


class System(msgspec.Struct, frozen=True, kw_only=True):
    """One router with one policy."""

    name: str
    family: Family
    policy: str = ""
    session_header: str | None = None
    """Header in which this policy wants the session's name."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a case sets on a router, whatever it is called there; None: the router's default."""

    timeout_s: int | None = None
    body_bytes: int | None = None


class RunningSystem(msgspec.Struct, frozen=True, kw_only=True):
    """A router that answers. Without a router, for `direct`, `pid` is None."""

    system: System
    port: int
    pid: int | None


DIRECT = System(name="direct", family=Family.DIRECT)
REFERENCE = System(name="vllm-rr", family=Family.VLLM, policy="round_robin")

ALWAYS_SPLIT = Path(__file__).with_name("pair_cost_split.yaml")
"""The policy that Baton is measured with. By itself the pair cost lets decode compute short prompts alone, so
that a proxy sends half as many messages and meets half as many faults as the routers beside it."""


def compared_systems() -> dict[str, System]:
    """Return every system that can be measured, by name."""
    systems = [
        DIRECT,
        REFERENCE,
        System(name="vllm-ca", family=Family.VLLM, policy="cache_aware"),
        System(name="sgl-rr", family=Family.SGLANG, policy="round_robin"),
        System(name="sgl-ca", family=Family.SGLANG, policy="cache_aware"),
        System(name="baton", family=Family.BATON, policy=str(ALWAYS_SPLIT)),
        *(System(name=f"baton-{policy}", family=Family.BATON, policy=policy) for policy in POLICIES),
    ]
    return {system.name: system for system in systems}


def command_of(system: System, ports: Ports, port: int, settings: Settings, peers: Path) -> list[str]:
    """Return the command that starts `system` on `port` in front of the workers at `ports`."""
    prefills = [f"http://127.0.0.1:{worker}" for worker in ports.prefill]
    decodes = [f"http://127.0.0.1:{worker}" for worker in ports.decode]
    match system.family:
        case Family.VLLM:
            program = [
                str(peers / "bin" / "vllm-router"),
                "--vllm-pd-disaggregation",
                "--log-level",
                "warning",
            ]
            return [*program, *_peer_flags(system, port, settings, [[url] for url in prefills], decodes)]
        case Family.SGLANG:
            program = [str(peers / "bin" / "python"), "-m", "sglang_router.launch_router"]
            program += ["--pd-disaggregation", "--log-level", "warn"]
            with_ports = [[url, BOOTSTRAP_PORT] for url in prefills]
            return [*program, *_peer_flags(system, port, settings, with_ports, decodes)]
        case Family.BATON:
            return _baton_command(system, port, settings, prefills, decodes)
        case Family.DIRECT:
            raise ValueError("direct is no router")


def _peer_flags(
    system: System, port: int, settings: Settings, prefills: list[list[str]], decodes: list[str]
) -> list[str]:
    flags = ["--host", "127.0.0.1", "--port", str(port), "--policy", system.policy]
    flags += ["--prometheus-port", str(free_ports(1)[0]), "--worker-startup-check-interval", "1"]
    for prefill in prefills:
        flags += ["--prefill", *prefill]
    for decode in decodes:
        flags += ["--decode", decode]
    if settings.timeout_s is not None:
        flags += ["--request-timeout-secs", str(settings.timeout_s)]
    if settings.body_bytes is not None:
        flags += ["--max-payload-size", str(settings.body_bytes)]
    return flags


def _baton_command(
    system: System, port: int, settings: Settings, prefills: list[str], decodes: list[str]
) -> list[str]:
    command = [
        sys.executable,
        "-P",
        "-m",
        "baton.cli",
        "proxy",
        "--port",
        str(port),
        "--policy",
        system.policy,
    ]
    for prefill in prefills:
        command += ["--prefill", prefill]
    for decode in decodes:
        command += ["--decode", decode]
    if settings.timeout_s is not None:
        for phase in ("prefill_s", "first_byte_s", "between_chunks_s"):
            command += ["--set", f"timeouts.{phase}={settings.timeout_s}"]
    if settings.body_bytes is not None:
        command += ["--set", f"limits.body_bytes={settings.body_bytes}"]
    return command


@contextlib.asynccontextmanager
async def running_system(
    system: System, ports: Ports, cores: Cores, peers: Path, settings: Settings | None = None
) -> AsyncIterator[RunningSystem]:
    """Run `system` until the context is left. Raises `BenchError` when it does not start."""
    if system.family is Family.DIRECT:
        yield RunningSystem(system=system, port=ports.decode[0], pid=None)
        return
    with tempfile.TemporaryFile() as log:
        running, process = None, None
        for _ in range(STARTS):
            port = free_ports(1)[0]
            command = command_of(system, ports, port, settings or Settings(), peers)
            process = await asyncio.create_subprocess_exec(
                *cores.pinned(cores.router, command[0], *command[1:]), stdout=log, stderr=log
            )
            if await _answers(process, port):
                running = RunningSystem(system=system, port=port, pid=process.pid)
                break
            await _stop(process)
        if running is None or process is None:
            log.seek(0)
            tail = "\n".join(log.read().decode(errors="replace").splitlines()[-10:])
            raise BenchError(f"{system.name} did not start:\n{tail}")
        try:
            yield running
        finally:
            await _stop(process)


async def _answers(process: asyncio.subprocess.Process, port: int) -> bool:
    """Wait until the router serves a request; False when it ended or took too long."""
    body = {"model": "mock", "max_tokens": 1, "messages": [{"role": "user", "content": "ready?"}]}
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.returncode is None:
        reply = await ask(port, msgspec.json.encode(body), timeout_s=5.0)
        if reply.status == 200:
            return True
        await asyncio.sleep(0.1)
    return False


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
