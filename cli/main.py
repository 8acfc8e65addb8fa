"""The `baton` command: its subcommands and their flags. Each imports what it runs when it runs.

A flag that is not given leaves the setting to the configuration file, and else to the default in the
configuration struct, where every default stands once.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import typer

from .ranks import app as ranks
from .simulate import app as simulate

T = TypeVar("T")

app = typer.Typer(
    name="baton",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Disaggregated prefill/decode serving for DeepSeek-style mixture-of-experts models.",
)

DEMO_MODEL = Path(__file__).resolve().parents[1] / "models" / "demo"

ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file; flags go over it.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting, dotted; repeatable."),
]
ProxySettings = Annotated[
    list[str] | None, typer.Option(metavar="KEY=VALUE", help="A setting of the proxy; repeatable.")
]
Host = Annotated[str | None, typer.Option(help="Address to listen on.")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0: a free one.")]
Join = Annotated[str | None, typer.Option(metavar="URL", help="A worker whose serving ranks this one joins.")]
MoeBackend = Annotated[
    str | None, typer.Option(help="How tokens reach experts on other ranks, such as all_to_all.")
]
ParentPid = Annotated[int | None, typer.Option(hidden=True, help="End when this process, the parent, ends.")]


def main() -> None:
    """Run the command line."""
    app()


@app.command()
def version() -> None:
    """Print the version."""
    from .. import __version__

    typer.echo(__version__)


@app.command()
def up(
    *,
    model: Annotated[Path, typer.Option(help="Checkpoint folder; the demo model.")] = DEMO_MODEL,
    served_model_name: Annotated[str | None, typer.Option(help="Model id; the folder's name.")] = None,
    host: Annotated[str, typer.Option(help="Address of the proxy.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the proxy; 0: a free one.")] = 8000,
    prefill: Annotated[int, typer.Option(min=0, help="Prefill workers.")] = 1,
    decode: Annotated[int, typer.Option(min=1, help="Decode workers.")] = 1,
    prefill_ranks: Annotated[
        int | None, typer.Option(min=1, help="Ranks of each prefill worker, sharing the experts.")
    ] = None,
    decode_ranks: Annotated[
        int | None, typer.Option(min=1, help="Ranks of each decode worker, sharing the experts.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads a worker; its share of the cores.")] = None,
    worker_config: Annotated[Path | None, typer.Option(help="YAML file of every worker's settings.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the workers; repeatable."),
    ] = None,
    proxy_processes: Annotated[int, typer.Option(min=1, help="Processes of the proxy.")] = 1,
    proxy_set: ProxySettings = None,
    drain_s: Annotated[float, typer.Option(help="Seconds that requests in flight get after Ctrl-C.")] = 30.0,
    json_events: Annotated[bool, typer.Option("--json", help="Events as JSON lines, for programs.")] = False,
) -> None:
    """Start a proxy with its prefill and decode workers on this host."""
    from .fleet import FleetPlan
    from .fleet_messages import ChildKind
    from .free_port import free_ports
    from .screen import choose_screen
    from .up import up as run_fleet

    if not (model / "config.json").is_file():
        _fail(f"--model {model}: no config.json in there")
    groups = {ChildKind.PREFILL: (prefill, prefill_ranks), ChildKind.DECODE: (decode, decode_ranks)}
    prefill, decode = prefill * (prefill_ranks or 1), decode * (decode_ranks or 1)
    fair_share = max((os.cpu_count() or 1) // (prefill + decode), 1)
    has_ranks = any(ranks is not None for _, ranks in groups.values())
    drain = f"drain_grace_s={drain_s}"
    settings = [drain, *(set_ or [])]
    if model == DEMO_MODEL and not has_ranks and worker_config is None and may_guess(settings):
        settings.insert(0, "speculative.method=mtp")
    plan = FleetPlan(
        model=str(model),
        served_model_name=served_model_name or model.resolve().name,
        host=host,
        port=port,
        prefill=prefill,
        decode=decode,
        group_ports={kind: free_ports(count) for kind, (count, ranks) in groups.items() if ranks is not None},
        worker_flags=(
            *("--threads", str(threads or fair_share)),
            *(("--config", str(worker_config)) if worker_config else ()),
            *_repeat("--set", settings),
        ),
        admin_token_file=_token_file(proxy_set or []),
        proxy_flags=_repeat("--set", [drain, f"processes={proxy_processes}", *(proxy_set or [])]),
    )
    raise typer.Exit(run_fleet(plan, choose_screen(json_events=json_events), drain_s=drain_s))


def worker(
    context: typer.Context,
    *,
    config: ConfigFile = None,
    model: Annotated[str | None, typer.Option(help="Folder of a checkpoint in Hugging Face format.")] = None,
    host: Host = None,
    port: Port = None,
    name: Annotated[str | None, typer.Option(help="Name in reports and metrics; host:port.")] = None,
    served_model_name: Annotated[str | None, typer.Option(help="Model id in the API.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    threads: Annotated[int | None, typer.Option(help="Compute threads of the engine.")] = None,
    kv_cache_bytes: Annotated[int | None, typer.Option(help="Size of the KV pool.")] = None,
    max_model_len: Annotated[int | None, typer.Option(help="Longest prompt and answer, in tokens.")] = None,
    rank: Annotated[int | None, typer.Option(help="Number among the workers that share the experts.")] = None,
    ranks: Annotated[int | None, typer.Option(help="How many workers share the experts.")] = None,
    rank_host: Annotated[str | None, typer.Option(help="Address of rank 0, the same for all ranks.")] = None,
    rank_port: Annotated[int | None, typer.Option(help="Where the ranks meet, the same for all.")] = None,
    join: Join = None,
    moe_backend: MoeBackend = None,
    transport: Annotated[str | None, typer.Option(help="How KV blocks travel: nixl, ucxx or socket.")] = None,
    kv_host: Annotated[str | None, typer.Option(help="Address the KV channel advertises.")] = None,
    kv_port: Annotated[int | None, typer.Option(help="Port of the KV channel; 0: a free one.")] = None,
    set_: Overrides = None,
    parent_pid: ParentPid = None,
) -> None:
    """Start one worker; its role is the name it was called by."""
    from ..engine.config import WorkerConfig

    settings = _settings(
        WorkerConfig,
        config,
        {
            "role": context.info_name,
            "model": model,
            "host": host,
            "port": port,
            "name": name,
            "served_model_name": served_model_name,
            "device": device,
            "dtype": dtype,
            "threads": threads,
            "kv_cache_bytes": kv_cache_bytes,
            "max_model_len": max_model_len,
            "ranks.rank": rank,
            "ranks.size": ranks,
            "ranks.host": rank_host,
            "ranks.port": rank_port,
            "join": join,
            "ranks.moe_backend": moe_backend,
            "kv_transfer.transport": transport,
            "kv_transfer.host": kv_host,
            "kv_transfer.port": kv_port,
        },
        set_,
        parent_pid,
    )
    from ..engine.worker import run_worker  # brings torch: after the settings are known to be good

    run_worker(settings)


app.command("prefill", help="Start one prefill worker: computes prompts and offers their KV cache.")(worker)
app.command("decode", help="Start one decode worker: pulls KV caches and streams tokens.")(worker)


@app.command()
def proxy(
    *,
    config: ConfigFile = None,
    host: Host = None,
    port: Port = None,
    prefill: Annotated[
        list[str] | None, typer.Option(help="URL of a prefill worker, vllm+URL, or sglang+URL; repeatable.")
    ] = None,
    decode: Annotated[list[str] | None, typer.Option(help="The same of a decode worker.")] = None,
    policy: Annotated[str | None, typer.Option(help="Routing policy: its name, or a policy file.")] = None,
    processes: Annotated[int | None, typer.Option(help="Processes that share the port.")] = None,
    set_: Overrides = None,
    parent_pid: ParentPid = None,
) -> None:
    """Start the proxy in front of workers from flags or a configuration file."""
    from ..proxy.config import ProxyConfig, worker_of_flag
    from ..proxy.routing.fleet import Role

    workers = [worker_of_flag(url, Role.PREFILL) for url in prefill or []]
    workers += [worker_of_flag(url, Role.DECODE) for url in decode or []]
    flags = {"host": host, "port": port, "policy": policy, "workers": workers or None}
    flags["processes"] = processes
    settings = _settings(ProxyConfig, config, flags, set_, parent_pid)
    from ..proxy.server import run_proxy

    try:
        run_proxy(settings)
    except OSError as error:
        _fail(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}")


app.add_typer(simulate, name="simulate")
app.add_typer(ranks, name="ranks")


@app.command()
def chat(
    *,
    url: Annotated[str, typer.Option(help="The proxy, or a worker alone.")] = "http://127.0.0.1:8000",
    model: Annotated[str | None, typer.Option(help="Model id; the first that the server lists.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 512,
    temperature: Annotated[float, typer.Option(help="0: the likeliest token every time.")] = 0.0,
) -> None:
    """Chat with a running server; each answer is followed by what it took."""
    from .chat import ChatSettings, run_chat

    settings = ChatSettings(url=url.rstrip("/"), model=model, max_tokens=max_tokens, temperature=temperature)
    raise typer.Exit(run_chat(settings))


def _settings(
    kind: type[T],
    config: Path | None,
    flags: Mapping[str, object],
    overrides: list[str] | None,
    parent_pid: int | None,
) -> T:
    from .children import die_with_parent
    from .settings import SettingsError, load_settings

    if parent_pid is not None:
        die_with_parent(parent_pid)
    try:
        return load_settings(kind, file=config, flags=flags, overrides=overrides or ())
    except SettingsError as error:
        _fail(str(error))


def _token_file(proxy_set: list[str]) -> Path | None:
    from .proxy_admin import token_file_among
    from .settings import SettingsError

    try:
        return token_file_among(proxy_set)
    except SettingsError as error:
        _fail(str(error))


def may_guess(settings: list[str]) -> bool:
    """Whether workers of the demo model guess ahead by themselves: a setting of one's own decides instead."""
    keys = [setting.partition("=")[0] for setting in settings]
    return not any(key == "run_ahead" or key.partition(".")[0] == "speculative" for key in keys)


def _repeat(flag: str, values: list[str]) -> tuple[str, ...]:
    return tuple(part for value in values for part in (flag, value))


def _fail(message: str) -> NoReturn:
    typer.echo(f"baton: {message}", err=True)
    raise typer.Exit(2)
