"""What `card run device` and `card run keys` do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from cardlab.cli.console import note, print_json, print_line
from cardlab.cli.settings import load_settings
from cardlab.core.errors import MissingDependencyError, RunError, UsageError
from cardlab.core.records.task import Task
from cardlab.profilers.devices import HardwareDevice, open_platform
from cardlab.profilers.measure.runtimes import open_runtime
from cardlab.profilers.runtime import resolve_task
from cardlab.profilers.runtime.execution import import_torch
from cardlab.split.data import Batches, Tokens, read_tokens
from cardlab.split.device import DevicePatience, Equipment, SplitDevice
from cardlab.split.device_transport import DeviceTransport
from cardlab.split.keys import KeyPair, is_loopback, make_keys, read_pair, read_public, split_address
from cardlab.split.settings import PRIVACY, RunSettings, check_task
from cardlab.split.shaping import LinkShape, parse_link
from cardlab.split.weights import open_weights

PORT = 5560


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOptions:
    """The options of `card run device`; None was not given."""

    server: str
    key: str | None
    server_key: str | None
    model: str | None
    data: str | None
    tokenizer: str | None
    threads: int
    dtype: str
    lora_rank: int | None
    lora_alpha: float | None
    lora_targets: str | None
    optimizer: str | None
    shard: str
    link: str | None
    platform: str
    name: str | None
    silence_s: float
    wait_s: float
    as_json: bool

    def given(self) -> dict[str, object]:
        """Options that the run must agree with, by attribute of the task."""
        targets = None if self.lora_targets is None else tuple(sorted(t.strip() for t in self.lora_targets.split(",")))
        named = {
            "lora.rank": self.lora_rank,
            "lora.alpha": self.lora_alpha,
            "lora.targets": targets,
            "optimizer": self.optimizer,
        }
        return {key: value for key, value in named.items() if value is not None}


def run_device(options: DeviceOptions) -> None:
    """Join the server's run and work until its end."""
    shape = parse_link(options.link, planned=True)
    shard = _shard(options.shard)
    tokens = read_tokens(options.data, options.tokenizer)
    transport = connect(options.server, options.key, options.server_key, shape)
    platform = open_real(options.platform, options.name)
    try:
        torch = import_torch()
        torch.set_num_threads(options.threads)

        def equip(settings: RunSettings) -> Equipment:
            return _equipment(settings, options, tokens, shard, platform)

        note(PRIVACY)
        patience = DevicePatience(silence_s=options.silence_s, server_s=options.wait_s)
        device = SplitDevice(transport, platform.identity, equip, patience=patience, note=note)
        done = device.run()
    finally:
        transport.close()
        platform.close()
    if options.as_json:
        print_json({"device": platform.identity.name, "rounds": done.rounds, "losses": done.losses})
    else:
        print_line(f"the run is over: {done.rounds} round(s) of {platform.identity.name} are stored at the server")


def open_real(name: str, label: str | None) -> HardwareDevice:
    """The platform of that name; one that only simulates cannot run anything."""
    platform = open_platform(name, label=label or load_settings().name)
    if platform.torch_device is None:
        platform.close()
        raise UsageError(f"{name} is simulated and runs nothing", remedy="use --platform auto, nvidia or cpu")
    return platform


def connect(server: str, key: str | None, server_key: str | None, shape: LinkShape | None = None) -> DeviceTransport:
    """The way to a server. Beyond loopback both keys are required."""
    require_zmq()
    host, port = split_address(server, PORT)
    if (key is None) != (server_key is None):
        raise UsageError("one key alone protects nothing", remedy="give both --key and --server-key")
    if key is None and not is_loopback(host):
        raise UsageError(
            f"{host} is beyond this machine and a run there needs keys",
            remedy="make them with card run keys, then give --key and --server-key",
        )
    pair = None if key is None else read_pair(Path(key))
    public = None if server_key is None else read_public(Path(server_key))
    return DeviceTransport(host, port, pair, public, shape)


def server_keys(host: str, key: str | None, allow: tuple[str, ...]) -> tuple[KeyPair | None, tuple[bytes, ...]]:
    """Own pair and the devices let in. Beyond loopback both are required."""
    require_zmq()
    if key is None and allow:
        raise UsageError("--allow without --key protects nothing", remedy="give --key too")
    if key is not None and not allow:
        raise UsageError("with --key no device is let in unless it is listed", remedy="give --allow DEVICE.pub")
    if key is None:
        if not is_loopback(host):
            raise UsageError(
                f"{host} is beyond this machine and a run there needs keys",
                remedy="make them with card run keys, then give --key and --allow",
            )
        return None, ()
    return read_pair(Path(key)), tuple(read_public(Path(path)) for path in allow)


def require_zmq() -> None:
    """MissingDependencyError where pyzmq is not installed."""
    try:
        import zmq  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("a split run needs pyzmq", remedy="pip install 'cardlab[models]'") from error


def write_keys(name: str, out: str, as_json: bool) -> None:
    """Make and name the two files."""
    require_zmq()
    pair, half = make_keys(name, Path(out))
    if as_json:
        print_json({"key": str(pair), "public": str(half)})
    else:
        print_line(f"{pair} stays here; give {half} to the other side")


def _equipment(
    settings: RunSettings, options: DeviceOptions, tokens: Tokens, shard: tuple[int, int], platform: HardwareDevice
) -> Equipment:
    from cardlab.split.halves import Half

    announced = settings.task
    here = _own_task(announced, options.model)
    check_task(announced, options.model or here.model, here, options.given())
    weights = open_weights(here, settings.seed)
    if weights.fingerprint != settings.weights:
        raise RunError(
            f"the frozen weights of {here.model} are not the server's ({weights.origin})",
            remedy="copy the server's model folder here and name it with --model",
        )
    batches = Batches(
        tokens,
        batch=announced.batch,
        sequence=announced.sequence,
        vocabulary=announced.architecture.vocab_size,
        seed=settings.seed,
        shard=shard,
    )
    runtime = open_runtime(platform)
    execution = runtime.resolve_execution(options.dtype, "sdpa", options.threads)
    where = runtime.torch_device or "cpu"
    half = Half(here, execution, weights, "device", learning_rate=settings.learning_rate, torch_device=where)
    return Equipment(half, batches.batch)


def _own_task(announced: Task, model: str | None) -> Task:
    """The announced task on this side's own model."""
    name = model or announced.model
    own = resolve_task(name, sequence=2)
    return replace(announced, model=own.model, architecture=own.architecture)


def _shard(text: str) -> tuple[int, int]:
    part, slash, count = text.partition("/")
    if not (slash and part.isdecimal() and count.isdecimal() and 1 <= int(part) <= int(count)):
        raise UsageError(f"{text!r} is no shard", remedy="write it like 1/4")
    return int(part) - 1, int(count)
