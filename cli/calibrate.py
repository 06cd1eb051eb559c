"""`calibrate`: fit what was measured, look at the fits, predict with them."""

from __future__ import annotations

from typing import Annotated

import typer

from cardlab.cli.options import (
    DbOption,
    JsonOption,
    OutPageOption,
    PlotOption,
    VersionOption,
    new_app,
    refuse_options_before_subcommand,
)

app = new_app("Fit laws to what was measured, with their uncertainty, and predict with them.")
DeviceOption = Annotated[
    str | None, typer.Option(metavar="LABEL", help="Label or key of a device; default: all.", show_default=False)
]


@app.callback()
def calibrate(ctx: typer.Context, version: VersionOption = False) -> None:
    """Fit laws to what was measured, with their uncertainty, and predict with them."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
        return
    refuse_options_before_subcommand(ctx)


@app.command()
def meter(
    reference: Annotated[str, typer.Option(help="CSV with the columns reference_w and sensor_w.")],
    device: Annotated[str, typer.Option(metavar="LABEL", help="Label or key of the device whose sensor it is.")],
    rail: Annotated[str, typer.Option(help="Rail of the sensor.")] = "board",
    db: DbOption = None,
    json: JsonOption = False,
) -> None:
    """Calibrate a device's power sensor against an external meter; later fits use it."""
    from cardlab.cli.exchanging import calibrate_sensor

    calibrate_sensor(reference, device, rail, db, json)


@app.command(name="import")
def import_(
    file: Annotated[str, typer.Argument(help="CSV, or a Kernel Tuner JSON file.")],
    device: Annotated[str, typer.Option(metavar="LABEL", help="Label of the device it was measured on.")],
    db: DbOption = None,
    json: JsonOption = False,
) -> None:
    """Bring in a sweep that was measured elsewhere."""
    from cardlab.cli.exchanging import import_sweep

    import_sweep(file, device, db, json)


@app.command()
def export(
    out: Annotated[str, typer.Option(metavar="FILE", help="Bundle to write.")],
    db: DbOption = None,
    json: JsonOption = False,
) -> None:
    """Write everything in the database to one bundle file."""
    from cardlab.cli.exchanging import export_all

    export_all(out, db, json)


@app.command()
def merge(
    bundles: Annotated[list[str], typer.Argument(help="Bundle files.")],
    db: DbOption = None,
    json: JsonOption = False,
) -> None:
    """Add what bundles hold and the database does not; any order, any number of times."""
    from cardlab.cli.exchanging import merge_all

    merge_all(bundles, db, json)


@app.command()
def fit(
    device: DeviceOption = None,
    law: Annotated[str, typer.Option(help="auto, or the name of a law.")] = "auto",
    plot: PlotOption = None,
    db: DbOption = None,
    json: JsonOption = False,
) -> None:
    """Fit every curve of the database and store the fits."""
    from cardlab.cli.calibrating import fit_all

    fit_all(device, law, plot, db, json)


@app.command()
def show(device: DeviceOption = None, plot: PlotOption = None, db: DbOption = None, json: JsonOption = False) -> None:
    """Show the stored fits and the constants derived from them."""
    from cardlab.cli.calibrating import show_fits

    show_fits(device, plot, db, json)


@app.command()
def predict(
    device: Annotated[str, typer.Option(metavar="LABEL", help="Label or key of the device.")],
    frequency_mhz: Annotated[float, typer.Option(help="Clock in MHz.")],
    segment: Annotated[str | None, typer.Option(help="Only this segment.", show_default=False)] = None,
    power_mode: Annotated[str | None, typer.Option(help="Only this power mode.", show_default=False)] = None,
    memory_mhz: Annotated[float | None, typer.Option(help="Only this memory clock.", show_default=False)] = None,
    model: Annotated[
        str | None, typer.Option(help="Predict a task that need not have been measured.", show_default=False)
    ] = None,
    batch: Annotated[int, typer.Option(help="Of that task.")] = 1,
    seq: Annotated[int, typer.Option(help="Of that task.")] = 512,
    plot: PlotOption = None,
    db: DbOption = None,
    json: JsonOption = False,
) -> None:
    """Predict power and time at a clock, with 95 % intervals."""
    from cardlab.cli.predicting import PredictOptions, predict_at

    predict_at(
        PredictOptions(
            device=device,
            frequency_mhz=frequency_mhz,
            segment=segment,
            power_mode=power_mode,
            memory_mhz=memory_mhz,
            model=model,
            batch=batch,
            sequence=seq,
            plot=plot,
            db=db,
            as_json=json,
        )
    )


@app.command()
def report(
    out: OutPageOption,
    device: DeviceOption = None,
    db: DbOption = None,
    json: JsonOption = False,
) -> None:
    """Write one HTML page of a device, or of all devices side by side."""
    from cardlab.cli.reporting import write_device_report

    write_device_report(out, db, json, device=device)
