"""Options of the split run: all roles at once, the server's, the device's, and keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cardlab.core.options import Checked, Opt

_TASK, _LORA, _TRAINING, _HERE, _KEYS = "Task", "LoRA", "Training", "This machine", "Keys"
_DATA_PANEL = "Data"
_MODEL = "Bundled model, config.json, or folder with safetensors."
_TOKENIZER = "A tokenizer.json or its folder; bytes for none."
_DATA = "Text, or rows in .jsonl, .json, .csv, .parquet: text, messages, prompt and completion, or Alpaca's columns."
_TRAIN_ON = "The loss is on all tokens or, of prompts and conversations, on the completion: all or completion."
_PACKING = "Several samples in a row; else each is padded, and texts are cut into rows one after the other."
_EVAL_DATA = "Held-out rows, of the same forms as --data, that judge the adapters of each round."
_EVAL_SHARE = "Share of the rows that is held out of --data for that, by a hash of their tokens."
_TEMPLATE = "A chat template (jinja) for conversations."
_SHAPE = "100mbit,5ms or UP/DOWN,DELAY; planned: the rates of an sft plan."


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions(Checked):
    """What server and local run share: plan or cut, task, training; None was not given."""

    devices: Annotated[int | None, Opt("How many devices take part.", low=1, shown="the plan's, 1")] = None
    plan: Annotated[str | None, Opt("Id of a stored plan, or its first digits.")] = None
    cut: Annotated[int | None, Opt("Layers on each device, without a plan.")] = None
    model: Annotated[str | None, Opt(_MODEL, shown="the plan's, tiny-llama", panel=_TASK)] = None
    rounds: Annotated[
        int | None, Opt("Rounds.", low=1, shown="the plan's, 3, with --resume the run's", panel=_TRAINING)
    ] = None
    optimizer: Annotated[str | None, Opt("sgd or adamw.", shown="the plan's, adamw", panel=_TRAINING)] = None
    threads: Annotated[int, Opt("CPU threads that compute.", low=1, panel=_HERE)] = 1
    out: Annotated[str, Opt("Folder for journal and adapters.")] = "card-run"
    batch: Annotated[int | None, Opt("Sequences in a mini-batch.", low=1, shown="the plan's, 1", panel=_TASK)] = None
    sequence: Annotated[
        int | None,
        Opt("Tokens in a sequence.", flag="--seq", low=2, shown="the plan's, at most 512", panel=_TASK),
    ] = None
    dtype: Annotated[
        str,
        Opt("Compute dtype here: float32, bfloat16 or float16; auto is that of the plan's profile.", panel=_HERE),
    ] = "auto"
    quantization: Annotated[
        str,
        Opt(
            "Frozen weights here: none, int8, nf4 or nf4-double; auto is as the model's files or the plan's profile.",
            panel=_HERE,
        ),
    ] = "auto"
    lora_rank: Annotated[int | None, Opt("LoRA rank r.", low=1, shown="the plan's, 8", panel=_LORA)] = None
    lora_alpha: Annotated[float | None, Opt("LoRA scaling numerator.", shown="the plan's, 16", panel=_LORA)] = None
    lora_targets: Annotated[
        str | None, Opt("LoRA modules, separated by commas.", shown="the family's", panel=_LORA)
    ] = None
    lora_rank_pattern: Annotated[
        str | None, Opt("Other ranks by module, e.g. down_proj=4,q_proj=16.", shown="the plan's", panel=_LORA)
    ] = None
    lora_dropout: Annotated[
        float | None, Opt("Share of the adapters' inputs left out in training.", shown="the plan's, 0", panel=_LORA)
    ] = None
    rslora: Annotated[bool, Opt("Scale by alpha / sqrt(r) instead of alpha / r.", panel=_LORA)] = False
    dora: Annotated[bool, Opt("Train magnitudes apart from directions (DoRA).", panel=_LORA)] = False
    adapters: Annotated[
        str | None, Opt("Begin with these: a folder of PEFT, whose LoRA options are taken.", panel=_LORA)
    ] = None
    local_epochs: Annotated[
        int | None,
        Opt("Mini-batches of a device in a round, T.", low=1, shown="the plan's, those of a step", panel=_TRAINING),
    ] = None
    learning_rate: Annotated[
        float | None, Opt("Learning rate of both sides.", shown="0.001, the run's", panel=_TRAINING)
    ] = None
    schedule: Annotated[
        str, Opt("After the warm-up: constant, or linear or cosine down to 0.", flag="--lr-schedule", panel=_TRAINING)
    ] = "constant"
    warmup_steps: Annotated[
        int, Opt("Steps of a device over which the learning rate rises from 0.", low=0, panel=_TRAINING)
    ] = 0
    weight_decay: Annotated[float, Opt("Of both sides' optimizers, on the adapters.", panel=_TRAINING)] = 0.0
    accumulate: Annotated[
        int, Opt("Mini-batches of a device whose gradients make one step.", low=1, panel=_TRAINING)
    ] = 1
    max_grad_norm: Annotated[
        float | None,
        Opt("Clip the gradient of both sides together to this norm.", shown="none", panel=_TRAINING),
    ] = None
    autocast: Annotated[str | None, Opt("torch's autocast on both sides: bfloat16.", shown="none", panel=_TRAINING)] = (
        None
    )
    wire_dtype: Annotated[str | None, Opt("dtype on the link.", shown="the plan's, the server's")] = None
    codec: Annotated[
        str | None,
        Opt("none, dense:BITS or topk:KEEP:BITS for activations and gradients.", shown="the plan's, none"),
    ] = None
    error_feedback: Annotated[bool, Opt("Add what the codec lost of a gradient to the next one.")] = False
    seed: Annotated[int, Opt("Of initial adapters, made weights and the order of the data.", panel=_TRAINING)] = 0
    eval_every: Annotated[
        int, Opt("Rounds from one evaluation of held-out rows to the next.", low=1, panel=_TRAINING)
    ] = 1
    patience: Annotated[
        int | None,
        Opt("End after so many evaluations in a row without a lower held-out loss.", low=1, panel=_TRAINING),
    ] = None
    max_steps: Annotated[
        int | None, Opt("Steps of a device in the whole run, instead of --rounds.", low=1, panel=_TRAINING)
    ] = None
    participants: Annotated[
        int | None, Opt("Devices that take part in a round, drawn by the seed.", low=1, shown="all")
    ] = None
    deadline_s: Annotated[
        float | None,
        Opt("Seconds that a device's round may take before it is given up.", flag="--deadline", shown="none"),
    ] = None
    cuts: Annotated[
        str | None, Opt("Devices with a cut of their own, without a plan: NAME=C,NAME=C.", shown="none")
    ] = None
    adapt: Annotated[
        bool, Opt("Solve the plan again between rounds for what they observe, and follow it where that pays.")
    ] = False
    parallel: Annotated[
        bool, Opt("Devices at once, adapters averaged, instead of one after the other.", panel=_TRAINING)
    ] = False
    server_sharing: Annotated[
        str | None,
        Opt("With --parallel: serial, or batched (mini-batches of all as one).", shown="the plan's, serial"),
    ] = None
    resume: Annotated[bool, Opt("Go on with the run in --out; --rounds and --learning-rate change it.")] = False
    save_every: Annotated[
        int | None, Opt("Rounds after which adapters are written to OUT/checkpoints/round-K.", low=1, shown="never")
    ] = None
    keep_checkpoints: Annotated[
        int | None, Opt("How many of the newest checkpoints stay, beside the best.", low=1, shown="1")
    ] = None
    silence_s: Annotated[
        float, Opt("Seconds without a sign of life before a side counts as dead.", flag="--silence")
    ] = 10.0
    report_to: Annotated[
        str, Opt("Where each round is reported to: none, or some of csv,tensorboard,trackio,wandb.")
    ] = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions(TrainingOptions):
    """A split run with every role on this machine; `data`: one file for all devices, or one for each."""

    local: Annotated[bool, Opt("Start server and devices on this machine.")] = False
    data: Annotated[
        tuple[str, ...] | str | None,
        Opt(f"{_DATA} Repeated: one for each device.", shown="a small bundled text", panel=_DATA_PANEL),
    ] = None
    tokenizer: Annotated[str | None, Opt(_TOKENIZER, shown="the model folder's, bytes", panel=_DATA_PANEL)] = None
    chat_template: Annotated[str | None, Opt(_TEMPLATE, shown="the tokenizer's", panel=_DATA_PANEL)] = None
    train_on: Annotated[
        str | None, Opt(_TRAIN_ON, shown="completion where there are prompts, else all", panel=_DATA_PANEL)
    ] = None
    packing: Annotated[bool, Opt(_PACKING, panel=_DATA_PANEL)] = False
    eval_data: Annotated[str | None, Opt(_EVAL_DATA, shown="none", panel=_DATA_PANEL)] = None
    eval_share: Annotated[float | None, Opt(_EVAL_SHARE, shown="none", panel=_DATA_PANEL)] = None
    link: Annotated[
        str | None,
        Opt(f"Shape each device's link: {_SHAPE}", shown="an sft plan's rates, as fast as it goes"),
    ] = None
    epochs: Annotated[
        float | None,
        Opt("Passes over the rows of the device that has most of them, instead of --rounds.", panel=_TRAINING),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions(TrainingOptions):
    """The server's role in a split run."""

    bind: Annotated[str, Opt("HOST:PORT to listen on; beyond loopback keys are required.", panel=_KEYS)] = (
        "127.0.0.1:5560"
    )
    key: Annotated[str | None, Opt("Own key file (card run keys); needed beyond loopback.", panel=_KEYS)] = None
    allow: Annotated[tuple[str, ...], Opt("Public key file of a device to let in; may be repeated.", panel=_KEYS)] = ()
    platform: Annotated[str, Opt("auto, nvidia, nvidia:INDEX or cpu.", panel=_HERE)] = "auto"
    name: Annotated[str | None, Opt("Label of this machine.", panel=_HERE)] = None
    tokenizer: Annotated[
        str | None,
        Opt("The tokenizer.json that devices must use, or bytes.", shown="the model folder's, the first device's"),
    ] = None
    wait_s: Annotated[float, Opt("Seconds to wait for devices.", flag="--wait")] = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOptions(Checked):
    """The device's role in a split run; None was not given."""

    server: Annotated[str, Opt("HOST:PORT of the server.")]
    key: Annotated[str | None, Opt("Own key file (card run keys); needed beyond loopback.", panel=_KEYS)] = None
    server_key: Annotated[str | None, Opt("Public key file of the server.", panel=_KEYS)] = None
    model: Annotated[str | None, Opt(_MODEL, shown="the server's", panel=_TASK)] = None
    data: Annotated[str | None, Opt(_DATA, shown="a small bundled text", panel=_DATA_PANEL)] = None
    tokenizer: Annotated[str | None, Opt(_TOKENIZER, shown="the model folder's, bytes", panel=_DATA_PANEL)] = None
    chat_template: Annotated[str | None, Opt(_TEMPLATE, shown="the tokenizer's", panel=_DATA_PANEL)] = None
    train_on: Annotated[
        str | None, Opt(_TRAIN_ON, shown="completion where there are prompts, else all", panel=_DATA_PANEL)
    ] = None
    packing: Annotated[bool, Opt(_PACKING, panel=_DATA_PANEL)] = False
    eval_data: Annotated[str | None, Opt(_EVAL_DATA, shown="none", panel=_DATA_PANEL)] = None
    eval_share: Annotated[float | None, Opt(_EVAL_SHARE, shown="none", panel=_DATA_PANEL)] = None
    threads: Annotated[int, Opt("CPU threads that compute.", low=1, panel=_HERE)] = 1
    dtype: Annotated[
        str,
        Opt(
            "Compute dtype here: float32, bfloat16 or float16; auto is what this device computes natively.", panel=_HERE
        ),
    ] = "auto"
    quantization: Annotated[
        str,
        Opt("Frozen weights here: none, int8, nf4 or nf4-double; auto is as the model's files.", panel=_HERE),
    ] = "auto"
    batch: Annotated[int | None, Opt("Sequences in this device's mini-batches.", low=1, shown="the run's")] = None
    lora_rank: Annotated[int | None, Opt("Refuse a run of another rank.", panel=_LORA)] = None
    lora_alpha: Annotated[float | None, Opt("Refuse a run of another alpha.", panel=_LORA)] = None
    lora_targets: Annotated[str | None, Opt("Refuse a run on other modules.", panel=_LORA)] = None
    optimizer: Annotated[str | None, Opt("Refuse a run with another optimizer.", panel=_TASK)] = None
    shard: Annotated[str, Opt("J/M: take every M-th window of the data, from the J-th (from 1).")] = "1/1"
    link: Annotated[str | None, Opt(f"Shape the link: {_SHAPE}", shown="as fast as it goes")] = None
    platform: Annotated[str, Opt("auto, nvidia, nvidia:INDEX or cpu.", panel=_HERE)] = "auto"
    name: Annotated[str | None, Opt("Label of this machine.", panel=_HERE)] = None
    silence_s: Annotated[
        float, Opt("Seconds without a sign of life before a side counts as dead.", flag="--silence")
    ] = 10.0
    wait_s: Annotated[float, Opt("Seconds to wait for a server that is not there, or lost.", flag="--wait")] = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysOptions(Checked):
    """A key pair for a run beyond this machine."""

    name: Annotated[str, Opt("Name of the pair: NAME.key and NAME.pub are written.", argument=True)]
    out: Annotated[str, Opt("Folder to write to.")] = "."


@dataclass(frozen=True, slots=True, kw_only=True)
class RunExportOptions(Checked):
    """The adapters of a run, finished or not, as a folder of PEFT."""

    out: Annotated[str, Opt("Folder of the run.")] = "card-run"
    to: Annotated[str | None, Opt("Folder to write to; never over one that holds something.", shown="OUT/export")] = (
        None
    )
