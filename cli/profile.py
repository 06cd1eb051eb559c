"""`profile-device`: measure a device, and look at what was measured."""

from __future__ import annotations

from typing import Annotated

import typer

from cardlab.cli.options import DbOption, JsonOption, VersionOption, new_app, refuse_options_before_subcommand
from cardlab.core.errors import UsageError

app = new_app("Measure this device: per-layer time, FLOPs, bytes and memory of a model, power where there is a meter.")


@app.callback()
def profile_device(
    ctx: typer.Context,
    model: Annotated[
        str | None, typer.Option(help="Bundled model, or path of a config.json; see: profile-device models.")
    ] = None,
    load_command: Annotated[
        str | None, typer.Option(help="Measure this command instead of a model.", show_default=False)
    ] = None,
    batch: Annotated[int, typer.Option(help="Sequences in a mini-batch.")] = 1,
    seq: Annotated[int, typer.Option(help="Tokens in a sequence.")] = 512,
    dtype: Annotated[
        str,
        typer.Option(help="auto, float32, bfloat16 or float16; auto is what the device computes natively."),
    ] = "auto",
    attention: Annotated[str, typer.Option(help="Attention kernel: sdpa or eager.")] = "sdpa",
    threads: Annotated[int, typer.Option(help="CPU threads that compute.")] = 1,
    lora_rank: Annotated[int, typer.Option(help="LoRA rank r.")] = 8,
    lora_alpha: Annotated[float, typer.Option(help="LoRA scaling numerator.")] = 16.0,
    lora_targets: Annotated[
        str | None, typer.Option(help="Module names, separated by commas; default: the family's own.")
    ] = None,
    adapter_dtype: Annotated[str, typer.Option(help="dtype of the adapter weights.")] = "float32",
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="Gradient checkpointing.")] = False,
    optimizer: Annotated[str, typer.Option(help="sgd or adamw.")] = "sgd",
    platform: Annotated[str, typer.Option(help="auto, nvidia, nvidia:INDEX, jetson, cpu, or simulated:NAME.")] = "auto",
    frequencies: Annotated[str, typer.Option(help="all, max, a number of clocks, or 600MHz,1200MHz.")] = "8",
    repeats: Annotated[int | None, typer.Option(help="Take exactly this many samples of each segment.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Time for each operating point, e.g. 90s or 30m.", show_default=False)
    ] = None,
    name: Annotated[str | None, typer.Option(help="Label of the device.", show_default=False)] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the newest unfinished run of the same kind.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be measured and how long it takes.")
    ] = False,
    readonly: Annotated[
        bool, typer.Option("--readonly", help="Touch no clock: measure at the clock as found.")
    ] = False,
    whole_step: Annotated[bool, typer.Option(help="Also measure one real training step of the whole model.")] = True,
    compression: Annotated[
        bool, typer.Option("--compression", help="Also measure size, error and speed of each codec at each cut.")
    ] = False,
    memory_budget_gib: Annotated[
        float | None,
        typer.Option(help="Memory the device side may take; default: what is really free.", show_default=False),
    ] = None,
    db: DbOption = None,
    json: JsonOption = False,
    version: VersionOption = False,
) -> None:
    """Measure this device: per-layer time, FLOPs, bytes and memory of a model; power with a meter."""
    if ctx.invoked_subcommand is not None:
        refuse_options_before_subcommand(ctx)
        return
    if (model is None) == (load_command is None):
        problem = "nothing to measure" if model is None else "a model and a load at once"
        raise UsageError(problem, remedy="name one: --model llama-3.2-1b, or --load-command CMD")
    from cardlab.cli.profiling import ProfileOptions, run_profile

    run_profile(
        ProfileOptions(
            model=model,
            load_command=load_command,
            batch=batch,
            sequence=seq,
            dtype=dtype,
            attention=attention,
            threads=threads,
            lora_rank=lora_rank,
            lora_alpha=lora_alpha,
            lora_targets=lora_targets,
            adapter_dtype=adapter_dtype,
            gradient_checkpointing=checkpointing,
            optimizer=optimizer,
            platform=platform,
            frequencies=frequencies,
            repeats=repeats,
            budget=budget,
            name=name,
            resume=resume,
            dry_run=dry_run,
            readonly=readonly,
            whole_step=whole_step,
            compression=compression,
            memory_budget_gib=memory_budget_gib,
            db=db,
            as_json=json,
        )
    )


@app.command()
def doctor(
    platform: Annotated[str, typer.Option(help="auto, nvidia, nvidia:INDEX, jetson, cpu, or simulated:NAME.")] = "auto",
    db: DbOption = None,
    json: JsonOption = False,
) -> None:
    """Say what was found, what feeds what, and what mends each lack."""
    from cardlab.cli.doctor import show_doctor

    show_doctor(platform, db, json)


@app.command()
def agent(
    out: Annotated[str, typer.Option(help="File to write.")] = "card-agent.pyz",
    model: Annotated[
        str | None, typer.Option(help="Bundled model or config.json; without one the agent measures loads only.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Sequences in a mini-batch.")] = 1,
    seq: Annotated[int, typer.Option(help="Tokens in a sequence.")] = 512,
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16 or float16; auto covers all and lets the board choose.")
    ] = "auto",
    attention: Annotated[str, typer.Option(help="Attention kernel: sdpa or eager.")] = "sdpa",
    lora_rank: Annotated[int, typer.Option(help="LoRA rank r.")] = 8,
    lora_alpha: Annotated[float, typer.Option(help="LoRA scaling numerator.")] = 16.0,
    lora_targets: Annotated[
        str | None, typer.Option(help="Module names, separated by commas; default: the family's own.")
    ] = None,
    adapter_dtype: Annotated[str, typer.Option(help="dtype of the adapter weights.")] = "float32",
    optimizer: Annotated[str, typer.Option(help="sgd or adamw.")] = "sgd",
    json: JsonOption = False,
) -> None:
    """Pack a file that measures a board whose Python cannot run cardlab (3.6 and later)."""
    from cardlab.cli.packing import AgentOptions, write_agent

    write_agent(
        AgentOptions(
            out=out,
            model=model,
            batch=batch,
            sequence=seq,
            dtype=dtype,
            attention=attention,
            lora_rank=lora_rank,
            lora_alpha=lora_alpha,
            lora_targets=lora_targets,
            adapter_dtype=adapter_dtype,
            optimizer=optimizer,
            as_json=json,
        )
    )


@app.command()
def models(json: JsonOption = False) -> None:
    """List the bundled models."""
    from cardlab.cli.profiling import show_models

    show_models(json)


@app.command()
def show(
    run: Annotated[str | None, typer.Argument(help="Id of a run, or its first digits; default: the newest.")] = None,
    all_runs: Annotated[bool, typer.Option("--all", help="List all runs instead.")] = False,
    db: DbOption = None,
    json: JsonOption = False,
) -> None:
    """Show a stored profile."""
    from cardlab.cli.showing import show_profile, show_runs

    if all_runs:
        show_runs(db, json)
    else:
        show_profile(run, db, json)


@app.command()
def restore(json: JsonOption = False) -> None:
    """Release clocks that a dead process left locked."""
    from cardlab.cli.profiling import restore_clocks

    restore_clocks(json)


@app.command()
def capture(
    out: Annotated[str | None, typer.Option(help="File to write; default: print it.", show_default=False)] = None,
    json: JsonOption = False,
) -> None:
    """Write what NVML and the kernel answer here to one JSON document; changes nothing."""
    from cardlab.cli.checking import show_capture

    if json and out is not None:
        raise UsageError("--json prints and --out writes", remedy="give one of them")
    show_capture(out)


@app.command()
def selftest(
    platform: Annotated[str, typer.Option(help="auto, nvidia, nvidia:INDEX, jetson, cpu, or simulated:NAME.")] = "auto",
    json: JsonOption = False,
) -> None:
    """Lock a clock, measure, restore the clock, and check each on the device."""
    from cardlab.cli.checking import run_selftest

    run_selftest(platform, json)
