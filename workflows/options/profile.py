"""Options of measuring: profile a device, look at it, pack the agent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cardlab.core.options import Checked, Opt

_TASK, _LORA, _DEVICE, _EFFORT = "Task", "LoRA", "Device", "Effort"
_PLATFORMS = "auto, nvidia, nvidia:INDEX, jetson, cpu, or simulated:NAME."
_FREQUENCIES = "all, max, a number, 600MHz,1200MHz, or best: as few as tell the one of least energy."
_TARGETS = "Module names, separated by commas; default: the family's own."


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsOptions(Checked):
    """Which models to list."""

    supported: Annotated[bool, Opt("Instead try every model type of the installed transformers (some minutes).")] = (
        False
    )
    model_type: Annotated[str | None, Opt("Try this model type only.", flag="--type")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileOptions(Checked):
    """What to measure, on what, and how thoroughly; None was not given."""

    model: Annotated[
        str | None, Opt("Bundled model, config.json, model folder, or Hub id in the local cache.", panel=_TASK)
    ] = None
    load_command: Annotated[str | None, Opt("Measure this command instead of a model.", panel=_TASK)] = None
    batch: Annotated[int, Opt("Sequences in a mini-batch.", panel=_TASK)] = 1
    sequence: Annotated[int, Opt("Tokens in a sequence.", flag="--seq", panel=_TASK)] = 512
    dtype: Annotated[
        str,
        Opt("auto, float32, bfloat16 or float16; auto is what the device computes natively.", panel=_DEVICE),
    ] = "auto"
    quantization: Annotated[
        str,
        Opt("Frozen weights: none, int8, nf4 or nf4-double; auto is as the model's files have them.", panel=_DEVICE),
    ] = "auto"
    attention: Annotated[str, Opt("Attention kernel: sdpa or eager.", panel=_DEVICE)] = "sdpa"
    threads: Annotated[int, Opt("CPU threads that compute.", panel=_DEVICE)] = 1
    lora_rank: Annotated[int, Opt("LoRA rank r.", panel=_LORA)] = 8
    lora_alpha: Annotated[float, Opt("LoRA scaling numerator.", panel=_LORA)] = 16.0
    lora_targets: Annotated[str | None, Opt(_TARGETS, panel=_LORA)] = None
    adapter_dtype: Annotated[str, Opt("dtype of the adapter weights.", panel=_LORA)] = "float32"
    lora_rank_pattern: Annotated[str | None, Opt("Other ranks by module, e.g. down_proj=4,q_proj=16.", panel=_LORA)] = (
        None
    )
    lora_dropout: Annotated[float, Opt("Share of the adapters' inputs left out in training.", panel=_LORA)] = 0.0
    rslora: Annotated[bool, Opt("Scale by alpha / sqrt(r) instead of alpha / r.", panel=_LORA)] = False
    dora: Annotated[bool, Opt("Train magnitudes apart from directions (DoRA).", panel=_LORA)] = False
    gradient_checkpointing: Annotated[bool, Opt("Gradient checkpointing.", flag="--checkpointing", panel=_TASK)] = False
    optimizer: Annotated[str, Opt("sgd or adamw.", panel=_TASK)] = "sgd"
    platform: Annotated[str, Opt(_PLATFORMS, panel=_DEVICE)] = "auto"
    frequencies: Annotated[str, Opt(_FREQUENCIES, panel=_EFFORT)] = "8"
    for_plan: Annotated[
        str | None,
        Opt(
            "With --frequencies best: measure what the plan of this scenario still hangs on (as card plan --from-db).",
            metavar="FILE",
            panel=_EFFORT,
        ),
    ] = None
    repeats: Annotated[int | None, Opt("Take exactly this many samples of each segment.", panel=_EFFORT)] = None
    budget: Annotated[
        str | None,
        Opt("Time for the whole command, e.g. 90s or 30m; what it does not hold is left to --resume.", panel=_EFFORT),
    ] = None
    memory_frequencies: Annotated[
        str | None, Opt("Sweep the memory's frequency too: all, or 5001MHz,9001MHz.", panel=_EFFORT)
    ] = None
    power_per_segment: Annotated[
        bool, Opt("Also run each segment alone under the meter, for its own energy.", panel=_EFFORT)
    ] = False
    name: Annotated[str | None, Opt("Label of the device.", panel=_DEVICE)] = None
    resume: Annotated[bool, Opt("Go on with the newest unfinished run of the same kind.", panel=_EFFORT)] = False
    dry_run: Annotated[bool, Opt("Say what would be measured and how long it takes.", panel=_EFFORT)] = False
    readonly: Annotated[bool, Opt("Lock no frequency: measure as found, what the governor does.", panel=_EFFORT)] = (
        False
    )
    whole_step: Annotated[bool, Opt("Also measure one real training step of the whole model.", panel=_EFFORT)] = True
    sittings: Annotated[
        int, Opt("Profile so many times, each in a process of its own: tells how far runs differ here.", panel=_EFFORT)
    ] = 1
    rehearsal: Annotated[
        bool, Opt("Also make some steps of each side as a run does: plans count what they take more.", panel=_EFFORT)
    ] = True
    compression: Annotated[
        bool, Opt("Also measure size, error and speed of each codec at each cut.", panel=_EFFORT)
    ] = False
    memory_budget_gib: Annotated[
        float | None, Opt("Memory the device side may take; default: what is really free.", panel=_DEVICE)
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorOptions(Checked):
    """Which device to look at."""

    platform: Annotated[str, Opt(_PLATFORMS)] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class SelftestOptions(Checked):
    """Which device to test."""

    platform: Annotated[str, Opt(_PLATFORMS)] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions(Checked):
    """What the packed agent is to measure."""

    out: Annotated[str, Opt("File to write.")] = "card-agent.pyz"
    model: Annotated[str | None, Opt("Bundled model or config.json; without one the agent measures loads only.")] = None
    batch: Annotated[int, Opt("Sequences in a mini-batch.")] = 1
    sequence: Annotated[int, Opt("Tokens in a sequence.", flag="--seq")] = 512
    dtype: Annotated[str, Opt("float32, bfloat16 or float16; auto covers all and lets the board choose.")] = "auto"
    attention: Annotated[str, Opt("Attention kernel: sdpa or eager.")] = "sdpa"
    lora_rank: Annotated[int, Opt("LoRA rank r.")] = 8
    lora_alpha: Annotated[float, Opt("LoRA scaling numerator.")] = 16.0
    lora_targets: Annotated[str | None, Opt(_TARGETS)] = None
    adapter_dtype: Annotated[str, Opt("dtype of the adapter weights.")] = "float32"
    optimizer: Annotated[str, Opt("sgd or adamw.")] = "sgd"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowOptions(Checked):
    """Which run to show."""

    run: Annotated[str | None, Opt("Id of a run, or its first digits; default: the newest.", argument=True)] = None
    all_runs: Annotated[bool, Opt("List all runs instead.", flag="--all")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureOptions(Checked):
    """Where the snapshot goes."""

    out: Annotated[str | None, Opt("File to write; default: print it.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NoOptions(Checked):
    """A command without options of its own."""
