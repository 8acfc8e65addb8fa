"""The flags of `baton simulate`: routing policies on a trace, over a simulated fleet, and its calibration."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Run routing policies over a simulated fleet and compare them.")


@app.callback(invoke_without_command=True)
def simulate(
    context: typer.Context,
    *,
    trace: Annotated[Path | None, typer.Option(help="Mooncake-format JSON lines; none: sessions.")] = None,
    sessions: Annotated[int, typer.Option(min=1, help="Sessions to make up when there is no trace.")] = 1000,
    policy: Annotated[
        list[str] | None,
        typer.Option("--policy", "--compare", help="Policy file, name of a policy, or `all`; repeatable."),
    ] = None,
    prefill: Annotated[int, typer.Option(min=1, help="Prefill workers.")] = 8,
    decode: Annotated[int, typer.Option(min=1, help="Decode workers.")] = 8,
    sweep: Annotated[
        str | None, typer.Option(metavar="P:D", help="Try every split of P + D workers (or of a number).")
    ] = None,
    speed: Annotated[
        list[float] | None, typer.Option(help="How many times as fast requests come, 1; repeatable.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many requests of the trace.")] = None,
    engine: Annotated[Path | None, typer.Option(help="YAML file of the workers' speeds.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same figures.")] = 0,
    ttft_s: Annotated[float, typer.Option(help="Objective for the first token.")] = 5.0,
    tpot_s: Annotated[float, typer.Option(help="Objective for the time between tokens.")] = 0.05,
    report: Annotated[Path | None, typer.Option(help="Write an HTML page here.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Write an SVG of goodput and TTFT here.")] = None,
) -> None:
    """Run routing policies over a simulated fleet and compare them."""
    if context.invoked_subcommand is not None:
        return
    # When it runs, as every subcommand: the others need none of this.
    from ..proxy.simulator.console import ConsoleError, Wish, run_wish  # noqa: PLC0415
    from ..proxy.simulator.outcome import Objective  # noqa: PLC0415

    wish = Wish(
        trace=trace,
        sessions=sessions,
        policies=tuple(policy or ["pair_cost"]),
        prefill=prefill,
        decode=decode,
        sweep=sweep,
        speeds=tuple(speed or [1.0]),
        limit=limit,
        engine=engine,
        seed=seed,
        objective=Objective(ttft_s=ttft_s, tpot_s=tpot_s),
        report=report,
        picture=picture,
    )
    try:
        typer.echo(run_wish(wish))
    except ConsoleError as error:
        typer.echo(f"baton: {error}", err=True)
        raise typer.Exit(2) from None


@app.command()
def calibrate(
    url: Annotated[str, typer.Argument(help="The proxy of a running fleet, or a worker alone.")],
    *,
    out: Annotated[Path, typer.Option(help="Write the engine model here, for `baton simulate --engine`.")],
    model: Annotated[str | None, typer.Option(help="Model id; the first that the server lists.")] = None,
    engine: Annotated[
        Path | None, typer.Option(help="Engine model to keep what cannot be measured from.")
    ] = None,
    longest: Annotated[
        int | None, typer.Option(min=64, help="Longest prompt, in tokens; as the model allows, up to 4096.")
    ] = None,
    streams: Annotated[int, typer.Option(min=2, help="Largest batch to decode.")] = 16,
    check: Annotated[
        int, typer.Option(min=0, help="Then measure a load of so many requests and simulate the same.")
    ] = 0,
    check_busy: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Share of the time that prefill is busy in that load.")
    ] = 0.5,
    seed: Annotated[int, typer.Option(help="Same seed, same prompts.")] = 0,
) -> None:
    """Fit the simulated workers' speeds to a running fleet."""
    from ..proxy.calibration.console import CalibrationWish, run_calibration  # noqa: PLC0415
    from ..proxy.calibration.model_fit import CalibrationError  # noqa: PLC0415

    wish = CalibrationWish(
        url=url,
        out=out,
        model=model,
        engine=engine,
        longest=longest,
        streams=streams,
        check=check,
        check_busy=check_busy,
        seed=seed,
    )
    try:
        typer.echo(run_calibration(wish))
    except CalibrationError as error:
        typer.echo(f"baton: {error}", err=True)
        raise typer.Exit(2) from None
