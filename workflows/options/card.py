"""Options of deciding: plan, simulate, reproduce, links, accuracy, reports, validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cardlab.core.options import Checked, Opt

_SOURCE, _TASK, _LINK, _LIMITS = "Source", "Task", "Link", "Constraints"
_SCENARIO = "A bundled scenario (card-letter) or a TOML file."


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions(Checked):
    """What to plan: with the database's constants unless a scenario is named; None was not given."""

    from_db: Annotated[bool, Opt("Plan with the constants in the database.", panel=_SOURCE)] = False
    scenario: Annotated[str | None, Opt(_SCENARIO, metavar="FILE", panel=_SOURCE)] = None
    server: Annotated[str | None, Opt("Label or key of the server.", metavar="LABEL", panel=_SOURCE)] = None
    devices: Annotated[
        tuple[str, ...],
        Opt("Label or key of a device; may be repeated.", flag="--device", metavar="LABEL", panel=_SOURCE),
    ] = ()
    scheme: Annotated[
        str | None, Opt("card (one device after another) or sft (in parallel).", shown="the scenario's, card")
    ] = None
    weight: Annotated[float | None, Opt("Weight on delay, 0 to 1.", shown="0.2")] = None
    deadline_s: Annotated[float | None, Opt("Longest round delay, seconds.", flag="--deadline", panel=_LIMITS)] = None
    rounds: Annotated[int | None, Opt("Training rounds.", shown="1")] = None
    model: Annotated[str | None, Opt("Names the task.", panel=_TASK)] = None
    batch: Annotated[int | None, Opt("Names the task.", panel=_TASK)] = None
    sequence: Annotated[int | None, Opt("Names the task.", flag="--seq", panel=_TASK)] = None
    wire_dtype: Annotated[
        str | None, Opt("float32, bfloat16 or float16 on the link.", shown="the server's", panel=_LINK)
    ] = None
    uplink_mbps: Annotated[float | None, Opt("Device to server, Mbit/s.", panel=_LINK)] = None
    downlink_mbps: Annotated[float | None, Opt("Server to device, Mbit/s.", panel=_LINK)] = None
    rtt_ms: Annotated[
        float | None, Opt("Round trip of the link, ms.", shown="the stored link's, none counted", panel=_LINK)
    ] = None
    local_epochs: Annotated[int | None, Opt("Mini-batches in a round, T.", shown="1", panel=_TASK)] = None
    compression: Annotated[
        float | None,
        Opt("Fraction of smashed data and gradient bytes that remains.", shown="1", panel=_LINK),
    ] = None
    task: Annotated[str | None, Opt("Its id, or first digits, where several are left.", metavar="ID", panel=_TASK)] = (
        None
    )
    min_accuracy: Annotated[float | None, Opt("sft: least accuracy, as card accuracy found it.", panel=_LIMITS)] = None
    server_sharing: Annotated[
        str | None, Opt("sft: serial, or batched with profiles at multiples of the batch.", shown="serial")
    ] = None
    energy: Annotated[str | None, Opt("busy, above_idle or round.", shown="round where waiting was measured")] = None
    channel: Annotated[str | None, Opt("Draw rates: good, normal or poor.", panel=_LINK)] = None
    link: Annotated[str | None, Opt("Name of a stored link (card link).", panel=_LINK)] = None
    confidence: Annotated[
        float | None,
        Opt("Keep the deadline with this probability (0.5 to 1).", shown="on average", panel=_LIMITS),
    ] = None
    max_server_power_w: Annotated[
        float | None, Opt("Cap on the server's power, W.", flag="--max-server-power", panel=_LIMITS)
    ] = None
    max_server_energy_j: Annotated[
        float | None,
        Opt("Cap on the server's energy a round and device, J.", flag="--max-server-energy", panel=_LIMITS),
    ] = None
    max_device_energy_j: Annotated[
        float | None, Opt("Cap on a device's energy a round, J.", flag="--max-device-energy", panel=_LIMITS)
    ] = None
    max_fleet_energy_j: Annotated[
        float | None, Opt("Cap on all devices' energy a round, J.", flag="--max-fleet-energy", panel=_LIMITS)
    ] = None
    device_budget_j: Annotated[
        float | None,
        Opt("Energy of each device for all rounds, J: kept by a price that follows what is left.", panel=_LIMITS),
    ] = None
    device_frequencies: Annotated[
        str | None, Opt("held (each its own), or all: chosen with the cut.", shown="held")
    ] = None
    device_weight: Annotated[float | None, Opt("Weight on the device's own energy, 0 or more.", shown="0")] = None
    device_energy: Annotated[
        str | None, Opt("A device's energy: compute, or round (radio and waiting too).", shown="compute")
    ] = None
    learnt: Annotated[
        bool, Opt("Multiply by what runs taught of these parties (calibrate learn RUN).", panel=_SOURCE)
    ] = False
    min_device_layers: Annotated[int | None, Opt("Least layers on a device.", shown="1", panel=_LIMITS)] = None
    pareto: Annotated[bool, Opt("Add the Pareto front of the first round.", panel="Output")] = False
    sensitivity: Annotated[bool, Opt("Add what changed settings would decide.", panel="Output")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateOptions(Checked):
    """A scenario over rounds, channels and fleets."""

    scenario: Annotated[str, Opt(_SCENARIO, metavar="FILE")] = "card-letter"
    rounds: Annotated[int, Opt("Rounds of each job.", low=1)] = 20
    channels: Annotated[
        tuple[str, ...],
        Opt("good, normal or poor; may be repeated.", flag="--channel", shown="as it is"),
    ] = ()
    fleets: Annotated[int, Opt("Fleets drawn from the scenario's devices.", low=1)] = 1
    devices: Annotated[int | None, Opt("Devices of each fleet.", low=1, shown="the scenario's")] = None
    weight: Annotated[float | None, Opt("Weight on delay, 0 to 1.")] = None
    scheme: Annotated[str | None, Opt("card or sft.", shown="the scenario's")] = None
    device_budget_j: Annotated[
        float | None, Opt("Energy of each device for all rounds, J: kept by a price that follows what is left.")
    ] = None
    workers: Annotated[int, Opt("Processes.", low=1)] = 1
    scheduler: Annotated[str | None, Opt("Address of a Dask scheduler, instead of processes.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReproduceOptions(Checked):
    """How long each channel state lasts."""

    rounds: Annotated[int, Opt("Rounds in each channel state.", low=1)] = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkOptions(Checked):
    """Measure a link, import one, or list what is stored."""

    file: Annotated[str | None, Opt("Result of iperf3 --json, run on the device.", argument=True)] = None
    name: Annotated[str, Opt("Label of the link.")] = "link"
    downlink: Annotated[str | None, Opt("Second result, of iperf3 -R --json.")] = None
    serve: Annotated[bool, Opt("On the server: answer a device that measures.")] = False
    bind: Annotated[str, Opt("HOST:PORT to answer on.")] = "127.0.0.1:5560"
    server: Annotated[str | None, Opt("On the device: measure the link to HOST:PORT.")] = None
    message_bytes: Annotated[int, Opt("Size of a message; use activation_bytes of the task.", low=1024, high=2**28)] = (
        2**20
    )
    messages: Annotated[int, Opt("Messages of each direction.", low=3)] = 10
    shape: Annotated[str | None, Opt("Shape the link as in card run.", flag="--link")] = None
    energy: Annotated[bool, Opt("Also measure what sending and receiving adds to this device's power.")] = False
    platform: Annotated[
        str | None, Opt("Whose meter: nvidia, nvidia:INDEX, jetson or cpu; with --energy.", shown="auto")
    ] = None
    key: Annotated[str | None, Opt("Own key file (card run keys).", panel="Keys")] = None
    server_key: Annotated[str | None, Opt("Public key file of the server.", panel="Keys")] = None
    allow: Annotated[tuple[str, ...], Opt("Public key file of a device to answer.", panel="Keys")] = ()
    idle_s: Annotated[float, Opt("Seconds without a probe after which --serve ends.", flag="--idle")] = 60.0


# From next to lossless to where fine-tuning suffers: the curve needs both ends.
ACCURACY_CODECS = ("dense:8", "dense:4", "dense:2", "topk:0.3:8", "topk:0.2:8", "topk:0.1:8")


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyOptions(Checked):
    """What compression costs: one fine-tuning of a small model for each codec."""

    model: Annotated[str, Opt("Bundled model, config.json, or folder with safetensors.")] = "tiny-llama"
    cut: Annotated[int | None, Opt("Layers on the device.", low=1, shown="half")] = None
    codecs: Annotated[
        tuple[str, ...],
        Opt("dense:BITS or topk:KEEP:BITS; may be repeated.", flag="--codec", shown="six of them"),
    ] = ()
    error_feedback: Annotated[bool, Opt("Add what the codec lost of a gradient to the next one.")] = False
    steps: Annotated[int, Opt("LoRA steps of each run.")] = 250
    seeds: Annotated[int, Opt("Runs of each codec.")] = 3
    batch: Annotated[int, Opt("Sequences in a mini-batch.")] = 8
    sequence: Annotated[int, Opt("Tokens in a sequence.", flag="--seq")] = 64
    learning_rate: Annotated[float, Opt("Of AdamW (without weight decay) on the adapters.")] = 1e-3
    pretrain: Annotated[int, Opt("Steps on English text, for a model without weights.")] = 600
    data: Annotated[
        str | None, Opt("Text (.txt) or JSON lines (.jsonl).", shown="program text of Python's library")
    ] = None
    tokenizer: Annotated[
        str | None, Opt("A tokenizer.json or its folder; bytes for none.", shown="the model folder's, bytes")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReportOptions(Checked):
    """The page of a plan, the devices it was made from, and the split run that followed it."""

    out: Annotated[str, Opt("HTML file to write.", metavar="FILE")]
    plan: Annotated[str | None, Opt("Id of a plan, or its first digits; default: the newest.", metavar="ID")] = None
    run: Annotated[str | None, Opt("Id of a split run; default: the newest that followed the plan.", metavar="ID")] = (
        None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidateOptions(Checked):
    """Which run to hold against its prediction."""

    run: Annotated[str | None, Opt("Id of a run, or its first digits; default: the newest.", argument=True)] = None
