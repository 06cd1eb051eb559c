"""`card`: decide cut layer and server clock."""

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
from cardlab.cli.run import run_app
from cardlab.core.errors import UsageError

app = new_app("Choose the cut layer and the server's clock that trade round delay against server energy.")


@app.callback()
def card(ctx: typer.Context, version: VersionOption = False) -> None:
    """Choose the cut layer and the server's clock that trade round delay against server energy."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
        return
    refuse_options_before_subcommand(ctx)


@app.command()
def plan(
    from_db: Annotated[bool, typer.Option("--from-db", help="Plan with the constants in the database.")] = False,
    scenario: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A bundled scenario (card-letter) or a TOML file.", show_default=False),
    ] = None,
    server: Annotated[
        str | None, typer.Option(metavar="LABEL", help="Label or key of the server.", show_default=False)
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL", help="Label or key of a device; may be repeated.", show_default=False),
    ] = None,
    scheme: Annotated[
        str | None,
        typer.Option(help="card (one device after another) or sft (in parallel).", show_default="the scenario's, card"),
    ] = None,
    weight: Annotated[float | None, typer.Option(help="Weight on delay, 0 to 1.", show_default="0.2")] = None,
    deadline: Annotated[float | None, typer.Option(help="Longest round delay, seconds.", show_default=False)] = None,
    rounds: Annotated[int | None, typer.Option(help="Training rounds.", show_default="1")] = None,
    model: Annotated[str | None, typer.Option(help="Names the task.", show_default=False)] = None,
    batch: Annotated[int | None, typer.Option(help="Names the task.", show_default=False)] = None,
    seq: Annotated[int | None, typer.Option(help="Names the task.", show_default=False)] = None,
    wire_dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16 on the link.", show_default="the server's"),
    ] = None,
    uplink_mbps: Annotated[float | None, typer.Option(help="Device to server, Mbit/s.", show_default=False)] = None,
    downlink_mbps: Annotated[float | None, typer.Option(help="Server to device, Mbit/s.", show_default=False)] = None,
    local_epochs: Annotated[int | None, typer.Option(help="Mini-batches in a round, T.", show_default="1")] = None,
    compression: Annotated[
        float | None,
        typer.Option(help="Fraction of smashed data and gradient bytes that remains.", show_default="1"),
    ] = None,
    min_accuracy: Annotated[
        float | None, typer.Option(help="sft: least accuracy, by the curve of card accuracy.", show_default=False)
    ] = None,
    server_sharing: Annotated[
        str | None,
        typer.Option(help="sft: serial, or batched with profiles at multiples of the batch.", show_default="serial"),
    ] = None,
    energy: Annotated[
        str | None,
        typer.Option(help="busy, above_idle or round.", show_default="round where waiting was measured"),
    ] = None,
    channel: Annotated[str | None, typer.Option(help="Draw rates: good, normal or poor.", show_default=False)] = None,
    link: Annotated[str | None, typer.Option(help="Name of a stored link (card link).", show_default=False)] = None,
    confidence: Annotated[
        float | None,
        typer.Option(help="Keep the deadline with this probability (0.5 to 1).", show_default="on average"),
    ] = None,
    max_server_power: Annotated[
        float | None, typer.Option(help="Cap on the server's power, W.", show_default=False)
    ] = None,
    max_server_energy: Annotated[
        float | None,
        typer.Option(help="Cap on the server's energy a round and device, J.", show_default=False),
    ] = None,
    max_device_energy: Annotated[
        float | None, typer.Option(help="Cap on a device's energy a round, J.", show_default=False)
    ] = None,
    min_device_layers: Annotated[int | None, typer.Option(help="Least layers on a device.", show_default="1")] = None,
    pareto: Annotated[bool, typer.Option("--pareto", help="Add the Pareto front of the first round.")] = False,
    sensitivity: Annotated[bool, typer.Option("--sensitivity", help="Add what changed settings would decide.")] = False,
    plot: PlotOption = None,
    db: DbOption = None,
    json: JsonOption = False,
) -> None:
    """Make a plan from the database or from a scenario."""
    if from_db == (scenario is not None):
        raise UsageError("a plan needs one source", remedy="give --from-db, or --scenario FILE (or card-letter)")
    from cardlab.cli.planning import PlanOptions, make_plan

    make_plan(
        PlanOptions(
            scenario=scenario,
            server=server,
            devices=tuple(device or ()),
            scheme=scheme,
            weight=weight,
            deadline_s=deadline,
            rounds=rounds,
            model=model,
            batch=batch,
            sequence=seq,
            wire_dtype=wire_dtype,
            uplink_mbps=uplink_mbps,
            downlink_mbps=downlink_mbps,
            local_epochs=local_epochs,
            compression=compression,
            min_accuracy=min_accuracy,
            server_sharing=server_sharing,
            energy=energy,
            channel=channel,
            link=link,
            confidence=confidence,
            max_server_power_w=max_server_power,
            max_server_energy_j=max_server_energy,
            max_device_energy_j=max_device_energy,
            min_device_layers=min_device_layers,
            pareto=pareto,
            sensitivity=sensitivity,
            plot=plot,
            db=db,
            as_json=json,
        )
    )


@app.command()
def simulate(
    scenario: Annotated[
        str, typer.Option(metavar="FILE", help="A bundled scenario (card-letter) or a TOML file.")
    ] = "card-letter",
    rounds: Annotated[int, typer.Option(help="Rounds of each job.", min=1)] = 20,
    channel: Annotated[
        list[str] | None, typer.Option(help="good, normal or poor; may be repeated.", show_default="as it is")
    ] = None,
    fleets: Annotated[int, typer.Option(help="Fleets drawn from the scenario's devices.", min=1)] = 1,
    devices: Annotated[
        int | None, typer.Option(help="Devices of each fleet.", min=1, show_default="the scenario's")
    ] = None,
    weight: Annotated[float | None, typer.Option(help="Weight on delay, 0 to 1.", show_default=False)] = None,
    scheme: Annotated[str | None, typer.Option(help="card or sft.", show_default="the scenario's")] = None,
    workers: Annotated[int, typer.Option(help="Processes.", min=1)] = 1,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Address of a Dask scheduler, instead of processes.", show_default=False),
    ] = None,
    plot: PlotOption = None,
    json: JsonOption = False,
) -> None:
    """Play a scenario over rounds, channels and fleets."""
    from cardlab.cli.simulating import run_simulation

    run_simulation(
        scenario,
        rounds=rounds,
        channels=tuple(channel or ()),
        fleets=fleets,
        devices=devices,
        weight=weight,
        scheme=scheme,
        workers=workers,
        scheduler=scheduler,
        plot=plot,
        as_json=json,
    )


@app.command()
def reproduce(
    rounds: Annotated[int, typer.Option(help="Rounds in each channel state.", min=1)] = 20,
    plot: PlotOption = None,
    json: JsonOption = False,
) -> None:
    """Hold the paper's claims against this model, one by one."""
    from cardlab.cli.simulating import run_reproduction

    run_reproduction(rounds, plot, json)


@app.command()
def link(
    file: Annotated[str | None, typer.Argument(help="Result of iperf3 --json, run on the device.")] = None,
    name: Annotated[str, typer.Option(help="Label of the link.")] = "link",
    downlink: Annotated[
        str | None, typer.Option(help="Second result, of iperf3 -R --json.", show_default=False)
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="On the server: answer a device that measures.")] = False,
    bind: Annotated[str, typer.Option(help="HOST:PORT to answer on.")] = "127.0.0.1:5560",
    server: Annotated[
        str | None, typer.Option(help="On the device: measure the link to HOST:PORT.", show_default=False)
    ] = None,
    message_bytes: Annotated[
        int, typer.Option(help="Size of a message; use activation_bytes of the task.", min=1024, max=2**28)
    ] = 2**20,
    messages: Annotated[int, typer.Option(help="Messages of each direction.", min=3)] = 10,
    shape: Annotated[
        str | None, typer.Option("--link", help="Shape the link as in card run.", show_default=False)
    ] = None,
    key: Annotated[str | None, typer.Option(help="Own key file (card run keys).", show_default=False)] = None,
    server_key: Annotated[str | None, typer.Option(help="Public key file of the server.", show_default=False)] = None,
    allow: Annotated[
        list[str] | None, typer.Option(help="Public key file of a device to answer.", show_default=False)
    ] = None,
    idle: Annotated[float, typer.Option(help="Seconds without a probe after which --serve ends.")] = 60.0,
    db: DbOption = None,
    json: JsonOption = False,
) -> None:
    """Measure a link with the transport of card run, import one, or list what is stored."""
    if sum((file is not None, serve, server is not None)) > 1:
        raise UsageError("one thing at a time", remedy="give a FILE, or --serve, or --server HOST:PORT")
    if serve:
        from cardlab.cli.measuring_link import answer_probes

        answer_probes(bind, key, tuple(allow or ()), idle, json)
    elif server is not None:
        from cardlab.cli.measuring_link import LinkProbe, measure

        measure(
            LinkProbe(
                server=server,
                name=name,
                message_bytes=message_bytes,
                messages=messages,
                shape=shape,
                key=key,
                server_key=server_key,
                db=db,
                as_json=json,
            )
        )
    elif file is None:
        from cardlab.cli.linking import list_links

        list_links(db, json)
    else:
        from cardlab.cli.linking import import_link

        import_link(file, name=name, downlink=downlink, db=db, as_json=json)


@app.command()
def accuracy(
    model: Annotated[str, typer.Option(help="Bundled model, config.json, or folder with safetensors.")] = "tiny-llama",
    cut: Annotated[int | None, typer.Option(help="Layers on the device.", min=1, show_default="half")] = None,
    codec: Annotated[
        list[str] | None,
        typer.Option(help="dense:BITS or topk:KEEP:BITS; may be repeated.", show_default="six of them"),
    ] = None,
    error_feedback: Annotated[
        bool, typer.Option("--error-feedback", help="Add what the codec lost of a gradient to the next one.")
    ] = False,
    steps: Annotated[int, typer.Option(help="LoRA steps of each run.")] = 250,
    seeds: Annotated[int, typer.Option(help="Runs of each codec.")] = 3,
    batch: Annotated[int, typer.Option(help="Sequences in a mini-batch.")] = 8,
    seq: Annotated[int, typer.Option(help="Tokens in a sequence.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Of AdamW on the adapters.")] = 1e-3,
    pretrain: Annotated[int, typer.Option(help="Steps on English text, for a model without weights.")] = 600,
    data: Annotated[
        str | None, typer.Option(help="Text or JSON-lines file.", show_default="program text of Python's library")
    ] = None,
    db: DbOption = None,
    json: JsonOption = False,
) -> None:
    """Fine-tune a small model once for each codec and fit what compression costs; plans use the curve."""
    from cardlab.cli.compressing import ACCURACY_CODECS, AccuracyOptions, measure_accuracy

    measure_accuracy(
        AccuracyOptions(
            model=model,
            cut=cut,
            codecs=tuple(codec or ACCURACY_CODECS),
            feedback=error_feedback,
            steps=steps,
            seeds=seeds,
            batch=batch,
            sequence=seq,
            learning_rate=learning_rate,
            pretrain=pretrain,
            data=data,
            db=db,
            as_json=json,
        )
    )


@app.command()
def report(
    out: OutPageOption,
    plan: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Id of a plan, or its first digits; default: the newest.", show_default=False),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="Id of a split run; default: the newest that followed the plan.", show_default=False
        ),
    ] = None,
    db: DbOption = None,
    json: JsonOption = False,
) -> None:
    """Write one HTML page of a plan, the devices it was made from, and the split run that followed it."""
    from cardlab.cli.reporting import write_plan_report

    write_plan_report(out, db, json, plan=plan, run=run)


app.add_typer(run_app, name="run")


@app.command()
def validate(
    run: Annotated[str | None, typer.Argument(help="Id of a run, or its first digits; default: the newest.")] = None,
    plot: PlotOption = None,
    db: DbOption = None,
    json: JsonOption = False,
) -> None:
    """Hold a run against its prediction, term by term, and name the term that is off."""
    from cardlab.cli.validating import validate_run

    validate_run(run, plot, db, json)
