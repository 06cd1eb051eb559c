"""`card run`: the split run itself. `--local` starts every role here; `server` and `device` are roles of their own."""

from __future__ import annotations

from typing import Annotated

import typer

from cardlab.cli.options import DbOption, JsonOption, new_app, refuse_options_before_subcommand
from cardlab.core.errors import UsageError

run_app = new_app("Fine-tune a model split between one server and its devices, and time every term.")

PlanOption = Annotated[str | None, typer.Option(help="Id of a stored plan, or its first digits.", show_default=False)]
CutOption = Annotated[int | None, typer.Option(help="Layers on each device, without a plan.", show_default=False)]
ModelOption = Annotated[
    str | None,
    typer.Option(help="Bundled model, config.json, or folder with safetensors.", show_default="the plan's, tiny-llama"),
]
DataOption = Annotated[str | None, typer.Option(help="Text or JSON-lines file.", show_default="a small bundled text")]
TokenizerOption = Annotated[str | None, typer.Option(help="Local tokenizer.json of the model.", show_default="bytes")]
RoundsOption = Annotated[int | None, typer.Option(help="Rounds.", min=1, show_default="the plan's, 3")]
OptimizerOption = Annotated[str | None, typer.Option(help="sgd or adamw.", show_default="the plan's, sgd")]
ThreadsOption = Annotated[int, typer.Option(help="CPU threads that compute.", min=1)]
LinkOption = Annotated[
    str | None,
    typer.Option(
        help="Shape the link: 100mbit,5ms or UP/DOWN,DELAY; planned: the rates of an sft plan.",
        show_default="as fast as it goes",
    ),
]
LocalLinkOption = Annotated[
    str | None,
    typer.Option(
        help="Shape each device's link: 100mbit,5ms or UP/DOWN,DELAY; planned: the rates of an sft plan.",
        show_default="an sft plan's rates, as fast as it goes",
    ),
]
OutOption = Annotated[str, typer.Option(help="Folder for journal and adapters.")]
BatchOption = Annotated[
    int | None, typer.Option(help="Sequences in a mini-batch.", min=1, show_default="the plan's, 1")
]
SeqOption = Annotated[int | None, typer.Option(help="Tokens in a sequence.", min=2, show_default="the plan's, 512")]
DtypeOption = Annotated[
    str, typer.Option(help="Compute dtype here: float32, bfloat16 or float16; auto is that of the plan's profile.")
]
RankOption = Annotated[int | None, typer.Option(help="LoRA rank r.", min=1, show_default="the plan's, 8")]
AlphaOption = Annotated[float | None, typer.Option(help="LoRA scaling numerator.", show_default="the plan's, 16")]
TargetsOption = Annotated[
    str | None, typer.Option(help="LoRA modules, separated by commas.", show_default="the family's")
]
EpochsOption = Annotated[
    int | None, typer.Option(help="Mini-batches of a device in a round, T.", min=1, show_default="the plan's, 1")
]
RateOption = Annotated[float, typer.Option(help="Learning rate of both sides.")]
WireOption = Annotated[str | None, typer.Option(help="dtype on the link.", show_default="the plan's, the server's")]
CodecOption = Annotated[
    str | None,
    typer.Option(
        help="none, dense:BITS or topk:KEEP:BITS for activations and gradients.", show_default="the plan's, none"
    ),
]
FeedbackOption = Annotated[
    bool, typer.Option("--error-feedback", help="Add what the codec lost of a gradient to the next one.")
]
SeedOption = Annotated[int, typer.Option(help="Of initial adapters, made weights and the order of the data.")]
ParallelOption = Annotated[
    bool, typer.Option("--parallel", help="Devices at once, adapters averaged, instead of one after the other.")
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with the unfinished run in --out.")]
PlatformOption = Annotated[str, typer.Option(help="auto, nvidia, nvidia:INDEX or cpu.")]
NameOption = Annotated[str | None, typer.Option(help="Label of this machine.", show_default=False)]
SilenceOption = Annotated[float, typer.Option(help="Seconds without a sign of life before a side counts as dead.")]
KeyOption = Annotated[
    str | None, typer.Option(help="Own key file (card run keys); needed beyond loopback.", show_default=False)
]
SharingOption = Annotated[
    str | None,
    typer.Option(
        help="With --parallel: serial, or batched (mini-batches of all as one).", show_default="the plan's, serial"
    ),
]


@run_app.callback()
def run(
    ctx: typer.Context,
    local: Annotated[bool, typer.Option("--local", help="Start server and devices on this machine.")] = False,
    devices: Annotated[
        int | None, typer.Option(help="How many devices to start.", min=1, show_default="the plan's, 1")
    ] = None,
    plan: PlanOption = None,
    cut: CutOption = None,
    model: ModelOption = None,
    data: DataOption = None,
    tokenizer: TokenizerOption = None,
    rounds: RoundsOption = None,
    optimizer: OptimizerOption = None,
    threads: ThreadsOption = 1,
    link: LocalLinkOption = None,
    out: OutOption = "card-run",
    batch: BatchOption = None,
    seq: SeqOption = None,
    dtype: DtypeOption = "auto",
    lora_rank: RankOption = None,
    lora_alpha: AlphaOption = None,
    lora_targets: TargetsOption = None,
    local_epochs: EpochsOption = None,
    learning_rate: RateOption = 1e-3,
    wire_dtype: WireOption = None,
    codec: CodecOption = None,
    error_feedback: FeedbackOption = False,
    seed: SeedOption = 0,
    parallel: ParallelOption = False,
    server_sharing: SharingOption = None,
    resume: ResumeOption = False,
    silence: SilenceOption = 10.0,
    db: DbOption = None,
    json: JsonOption = False,
) -> None:
    """Fine-tune a model split between one server and its devices, and time every term."""
    if ctx.invoked_subcommand is not None:
        refuse_options_before_subcommand(ctx)
        return
    if not local:
        raise UsageError(
            "a run needs a role", remedy="use --local, or: card run server, card run device --server HOST:PORT"
        )
    from cardlab.cli.running import RunOptions, run_local

    run_local(
        RunOptions(
            plan=plan,
            cut=cut,
            model=model,
            data=data,
            tokenizer=tokenizer,
            rounds=rounds,
            optimizer=optimizer,
            threads=threads,
            link=link,
            out=out,
            batch=batch,
            sequence=seq,
            dtype=dtype,
            lora_rank=lora_rank,
            lora_alpha=lora_alpha,
            lora_targets=lora_targets,
            local_epochs=local_epochs,
            learning_rate=learning_rate,
            wire_dtype=wire_dtype,
            codec=codec,
            error_feedback=error_feedback,
            seed=seed,
            parallel=parallel,
            resume=resume,
            silence_s=silence,
            db=db,
            as_json=json,
            devices=devices,
            server_sharing=server_sharing,
        )
    )


@run_app.command()
def server(
    bind: Annotated[str, typer.Option(help="HOST:PORT to listen on; beyond loopback keys are required.")] = (
        "127.0.0.1:5560"
    ),
    key: KeyOption = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(help="Public key file of a device to let in; may be repeated.", show_default=False),
    ] = None,
    devices: Annotated[
        int | None, typer.Option(help="Devices to wait for.", min=1, show_default="the plan's, 1")
    ] = None,
    plan: PlanOption = None,
    cut: CutOption = None,
    model: ModelOption = None,
    rounds: RoundsOption = None,
    optimizer: OptimizerOption = None,
    threads: ThreadsOption = 1,
    out: OutOption = "card-run",
    batch: BatchOption = None,
    seq: SeqOption = None,
    dtype: DtypeOption = "auto",
    lora_rank: RankOption = None,
    lora_alpha: AlphaOption = None,
    lora_targets: TargetsOption = None,
    local_epochs: EpochsOption = None,
    learning_rate: RateOption = 1e-3,
    wire_dtype: WireOption = None,
    codec: CodecOption = None,
    error_feedback: FeedbackOption = False,
    seed: SeedOption = 0,
    parallel: ParallelOption = False,
    server_sharing: SharingOption = None,
    resume: ResumeOption = False,
    platform: PlatformOption = "auto",
    name: NameOption = None,
    silence: SilenceOption = 10.0,
    wait: Annotated[float, typer.Option(help="Seconds to wait for devices.")] = 300.0,
    db: DbOption = None,
    json: JsonOption = False,
) -> None:
    """The server's role: layers above the cut, and the adapters."""
    from cardlab.cli.running import RunOptions, run_server

    run_server(
        RunOptions(
            plan=plan,
            cut=cut,
            model=model,
            rounds=rounds,
            optimizer=optimizer,
            threads=threads,
            out=out,
            batch=batch,
            sequence=seq,
            dtype=dtype,
            lora_rank=lora_rank,
            lora_alpha=lora_alpha,
            lora_targets=lora_targets,
            local_epochs=local_epochs,
            learning_rate=learning_rate,
            wire_dtype=wire_dtype,
            codec=codec,
            error_feedback=error_feedback,
            seed=seed,
            parallel=parallel,
            resume=resume,
            platform=platform,
            name=name,
            silence_s=silence,
            wait_s=wait,
            db=db,
            as_json=json,
            devices=devices,
            bind=bind,
            key=key,
            allow=tuple(allow or ()),
            server_sharing=server_sharing,
        )
    )


@run_app.command()
def device(
    server: Annotated[str, typer.Option(help="HOST:PORT of the server.")],
    key: KeyOption = None,
    server_key: Annotated[str | None, typer.Option(help="Public key file of the server.", show_default=False)] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Bundled model, config.json, or folder with safetensors.", show_default="the server's"),
    ] = None,
    data: DataOption = None,
    tokenizer: TokenizerOption = None,
    threads: ThreadsOption = 1,
    dtype: DtypeOption = "auto",
    lora_rank: Annotated[int | None, typer.Option(help="Refuse a run of another rank.", show_default=False)] = None,
    lora_alpha: Annotated[float | None, typer.Option(help="Refuse a run of another alpha.", show_default=False)] = None,
    lora_targets: Annotated[str | None, typer.Option(help="Refuse a run on other modules.", show_default=False)] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="Refuse a run with another optimizer.", show_default=False)
    ] = None,
    shard: Annotated[
        str, typer.Option(help="J/M: take every M-th window of the data, from the J-th (from 1).")
    ] = "1/1",
    link: LinkOption = None,
    platform: PlatformOption = "auto",
    name: NameOption = None,
    silence: SilenceOption = 10.0,
    wait: Annotated[float, typer.Option(help="Seconds to wait for a lost server.")] = 120.0,
    json: JsonOption = False,
) -> None:
    """A device's role: layers up to the cut, and the data."""
    from cardlab.cli.running_device import DeviceOptions, run_device

    run_device(
        DeviceOptions(
            server=server,
            key=key,
            server_key=server_key,
            model=model,
            data=data,
            tokenizer=tokenizer,
            threads=threads,
            dtype=dtype,
            lora_rank=lora_rank,
            lora_alpha=lora_alpha,
            lora_targets=lora_targets,
            optimizer=optimizer,
            shard=shard,
            link=link,
            platform=platform,
            name=name,
            silence_s=silence,
            wait_s=wait,
            as_json=json,
        )
    )


@run_app.command()
def keys(
    name: Annotated[str, typer.Argument(help="Name of the pair: NAME.key and NAME.pub are written.")],
    out: Annotated[str, typer.Option(help="Folder to write to.")] = ".",
    json: JsonOption = False,
) -> None:
    """Make a key pair for a run beyond this machine."""
    from cardlab.cli.running_device import write_keys

    write_keys(name, out, json)
