"""A scenario: server, devices, task, objective and constraints, every number outright.

The keys are those of the TOML file (design, section 8); a key left out takes the default of the field,
and a default that a reader would want to know is listed by `assumed`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cardlab.core.quantity import Origin, Provenance

ENERGIES = ("busy", "above_idle", "round")
RANGES = ("box", "common", "cut_only", "per_cut")
BENCHMARKS = ("best", "max")
CHANNELS = ("good", "normal", "poor")
FADINGS = ("rayleigh", "none")
WEIGHT_ON = ("delay", "energy")
SCHEMES = ("card", "sft")
DEVICE_ENERGIES = ("compute", "round")
DEVICE_FREQUENCIES = ("held", "all")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """One mini-batch of equal layers and a head; FLOPs, bytes.

    `first_layer_backward_flop` None means as the other layers. `head_flop` is forward + backward on
    the server. `adapter_bytes_per_layer` and `optimizer_bytes_per_layer` travel once a round, both ways.
    The memory of a side is its base plus that of each of its layers.
    """

    layers: int
    layer_forward_flop: float
    layer_backward_flop: float
    first_layer_backward_flop: float | None = None
    head_flop: float = 0.0
    activation_bytes: float
    gradient_bytes: float
    adapter_bytes_per_layer: float = 0.0
    optimizer_bytes_per_layer: float = 0.0
    device_base_bytes: float = 0.0
    device_bytes_per_layer: float = 0.0
    server_base_bytes: float = 0.0
    server_bytes_per_layer: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """The server by the paper's model: D = flop/(f delta cores), P = static + kappa f^3.

    `frequencies_hz` are the frequencies it offers; empty means any frequency between the ends. `wait_power_w`
    is drawn while it waits for a device with its frequency held; energy = "round" needs it.
    """

    name: str
    frequency_min_hz: float
    frequency_max_hz: float
    cores: float
    delta: float = 2.0
    kappa_w_per_hz3: float | None = None
    static_power_w: float = 0.0
    wait_power_w: float | None = None
    frequencies_hz: tuple[float, ...] = ()
    memory_bytes: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpec:
    """A device by the paper's model, with its link; rates in bit/s.

    It holds `frequency_hz`; `frequencies_hz` are those it offers where devices may choose theirs. Its power at work is
    `power_w`, of the frequency it holds, or static + kappa f^3, of any. `wait_power_w` is drawn while it waits with its
    frequency held, `idle_power_w` while other devices have their turn, and `transmit_power_w` and `receive_power_w` by
    its radio alone, on top of waiting. `energy_budget_j` is what it may spend in all rounds together, counted as the
    objective counts device energy.
    """

    name: str
    frequency_hz: float
    cores: float
    delta: float = 2.0
    uplink_bps: float | None = None
    downlink_bps: float | None = None
    memory_bytes: float | None = None
    power_w: float | None = None
    frequencies_hz: tuple[float, ...] = ()
    kappa_w_per_hz3: float | None = None
    static_power_w: float | None = None
    wait_power_w: float | None = None
    idle_power_w: float | None = None
    transmit_power_w: float | None = None
    receive_power_w: float | None = None
    energy_budget_j: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSpec:
    """A radio channel, drawn each round for devices that give no rate; see `cardlab.card.link.channel`.

    `channel` is a noise density by name; `snr_mapping` a mapping from SNR to CQI by name;
    `protocol_efficiency` the fraction of the rate that carries payload.
    """

    channel: str = "normal"
    bandwidth_hz: float = 2.0e7
    uplink_tx_dbm: float = 23.0
    downlink_tx_dbm: float = 33.0
    path_loss_db: float = 103.0
    fading: str = "rayleigh"
    snr_mapping: str = "customary-lte"
    protocol_efficiency: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """Cost = w (D-Dmin)/(Dmax-Dmin) + (1-w)(E-Emin)/(Emax-Emin), with w on `weight_on`.

    `range` says over what the extremes are taken: "box" all cuts and frequencies of that device and round,
    before constraints; "common" all devices together; "cut_only" all cuts at the highest frequency;
    "per_cut" as box for delay, and for energy all frequencies at the cut in hand. `energy` is how server energy
    is counted. `compression` is phi. `device_energy_weight` adds that weight times the device's own
    energy, scaled to its range over cuts and frequencies as the server's is. `device_energy` is how that is counted:
    "compute" its own compute, "round" the whole round, radio and waiting included. `device_frequencies` "held" leaves
    each device at its frequency, "all" chooses among those it offers. `benchmark` is the frequency of the plans beside:
    "best" their own optimum, "max" the highest.
    """

    weight: float = 0.2
    weight_on: str = "delay"
    range: str = "box"
    energy: str = "busy"
    local_epochs: int = 1
    compression: float = 1.0
    device_energy_weight: float = 0.0
    device_energy: str = "compute"
    device_frequencies: str = "held"
    benchmark: str = "best"


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """Limits; None is no limit.

    `deadline_s` and the energies bound each device's round, `fleet_energy_j` the energies of all devices in a round
    together. With `deadline_confidence` (0.5 to 1) the
    deadline must hold with that probability under the uncertainty of the constants, not only on average.
    """

    deadline_s: float | None = None
    deadline_confidence: float | None = None
    min_device_layers: int | None = None
    server_power_w: float | None = None
    server_energy_j: float | None = None
    device_energy_j: float | None = None
    fleet_energy_j: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SftSpec:
    """Parallel split fine-tuning: what the devices share and how they compress; see `cardlab.card.schemes.sft`.

    Attributes:
        bandwidth_hz: of each direction, shared; None takes that of [link], else 20 MHz, assumed.
        spectrum: "power" (all transmit power in the share) or "linear" (a shared line).
        server_sharing: "serial" (one mini-batch after the other) or "batched" (all devices' at once).
        sharing_times: batched: how long 1, 2, .. M mini-batches at once take in units of one; measured.
        sharing_bytes_per_layer: server memory that each device beyond the first takes a layer.
        blocks: "own" cut for each device, or a "common" one.
        codec: family, "topk" or "dense"; `bits` of its values; `raw_bits` of a value before compression.
        rates: compression rates on offer; empty takes objective.compression, or a grid where accuracy is known.
        encode_bytes_per_s, decode_bytes_per_s: raw bytes, on devices and server; None takes no time, assumed.
        accuracy_limit, accuracy_loss, accuracy_rate: accuracy(r) = limit - loss exp(-rate r); None unknown.
        accuracy_target: least accuracy.
    """

    bandwidth_hz: float | None = None
    spectrum: str = "power"
    server_sharing: str = "serial"
    sharing_times: tuple[float, ...] = ()
    sharing_bytes_per_layer: float = 0.0
    blocks: str = "own"
    codec: str = "topk"
    bits: int = 8
    raw_bits: int = 32
    rates: tuple[float, ...] = ()
    encode_bytes_per_s: float | None = None
    decode_bytes_per_s: float | None = None
    accuracy_limit: float | None = None
    accuracy_loss: float | None = None
    accuracy_rate: float | None = None
    accuracy_target: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Everything a plan needs.

    Attributes:
        scheme: "card" (devices one after another) or "sft" (in parallel).
        rounds: training rounds.
        link: channel for devices without rates, None without.
        sft: what the devices of scheme "sft" share; its defaults are assumed where the table is missing.
        origin: where the numbers come from; a file's are assumed, a datasheet's can say so.
        assumed: what was filled in because nothing was given, in words.
    """

    scheme: str = "card"
    rounds: int = 1
    task: TaskSpec
    server: ServerSpec
    devices: tuple[DeviceSpec, ...]
    objective: Objective = field(default_factory=Objective)
    constraints: Constraints = field(default_factory=Constraints)
    link: LinkSpec | None = None
    sft: SftSpec = field(default_factory=SftSpec)
    provenance: Provenance = field(default_factory=lambda: Provenance.of(Origin.ASSUMED))
    assumed: tuple[str, ...] = ()
