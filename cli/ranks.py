"""The flags of `baton ranks`: more or fewer ranks for a fleet that serves."""

from typing import Annotated
from urllib.parse import urlsplit

import typer

from .fleet_control import Action, FleetControlError, Request, ask_fleet

app = typer.Typer(
    no_args_is_help=True, help="Add a rank to a running `baton up` of yours on this host, or take one out."
)

Url = Annotated[str, typer.Option(help="The fleet's proxy.")]
DEFAULT_URL = "http://127.0.0.1:8000"


@app.command()
def add(
    beside: Annotated[str, typer.Argument(metavar="WORKER", help="A rank of the group, such as decode-0.")],
    *,
    url: Url = DEFAULT_URL,
) -> None:
    """Start a worker that joins the ranks of WORKER while they serve; returns when it serves."""
    _ask(url, Action.ADD, beside)


@app.command()
def remove(
    name: Annotated[str, typer.Argument(metavar="WORKER", help="The rank that leaves, such as decode-1.")],
    *,
    url: Url = DEFAULT_URL,
) -> None:
    """Let WORKER finish what it has and leave its ranks, which serve on; returns when it has ended."""
    _ask(url, Action.REMOVE, name)


def _ask(url: str, action: Action, worker: str) -> None:
    port = urlsplit(url).port
    if port is None:
        raise typer.BadParameter(f"{url}: no port in it", param_hint="--url")
    try:
        reply = ask_fleet(port, Request(action=action, worker=worker))
    except FleetControlError as error:
        typer.echo(f"baton: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(reply.text, err=not reply.is_done)
    raise typer.Exit(0 if reply.is_done else 1)
