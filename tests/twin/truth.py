"""The world and its truth: what every number of a document must be, computed from the world's own constants.

Nothing here comes from the product (a test holds that): formulas are written again from the papers and from how a
LoRA step works, so that a mistake there is not repeated here. FLOP = 2 x MAC; SI units, named.

    time of a segment   overhead + flop / (f cores flop_per_core_cycle)
    power at work       static + linear f + cubic f^3
    power while waiting static + waiting (linear f + cubic f^3), frequency held
"""

from __future__ import annotations

from dataclasses import dataclass

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
BITS = 8
# What a process holds before any weight is there, as the product documents it for simulated devices.
FRAMEWORK_BYTES = 412 * 2**20
ATTENTION_IN = ("q_proj", "k_proj", "v_proj")
MLP_IN = ("gate_proj", "up_proj")


@dataclass(frozen=True, kw_only=True)
class Model:
    """A llama-shaped decoder."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool

    def config(self) -> dict[str, object]:
        """config.json as transformers writes it."""
        return {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab,
            "tie_word_embeddings": self.tied,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "hidden_act": "silu",
        }

    def map(self, name: str) -> tuple[int, int]:
        """Inputs and outputs of a linear map of a layer."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, query),
            "k_proj": (self.hidden, key),
            "v_proj": (self.hidden, key),
            "o_proj": (query, self.hidden),
            "gate_proj": (self.hidden, self.inner),
            "up_proj": (self.hidden, self.inner),
            "down_proj": (self.inner, self.hidden),
        }[name]

    @property
    def layer_weights(self) -> int:
        """Frozen weights of a layer with its two norms."""
        maps = (*ATTENTION_IN, "o_proj", *MLP_IN, "down_proj")
        return sum(a * b for a, b in map(self.map, maps)) + 2 * self.hidden

    @property
    def weights(self) -> int:
        """Of the whole model; a tied table counts once."""
        tables = (1 if self.tied else 2) * self.vocab * self.hidden
        return self.layers * self.layer_weights + tables + self.hidden


@dataclass(frozen=True, kw_only=True)
class Training:
    """What is fine-tuned, and how."""

    batch: int
    sequence: int
    rank: int
    targets: tuple[str, ...]
    adapter_dtype: str
    optimizer: str
    checkpointing: bool

    @property
    def tokens(self) -> int:
        return self.batch * self.sequence

    @property
    def moments(self) -> float:
        """AdamW's two float32 moments, as a multiple of an adapter's bytes."""
        return 2 * 4 / BYTES[self.adapter_dtype] if self.optimizer == "adamw" else 0.0


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A server or a board."""

    label: str
    kind: str
    dtype: str
    frequencies_hz: tuple[float, ...]
    cores: int
    flop_per_core_cycle: float
    overhead_s: float
    static_w: float
    linear_w_per_hz: float
    cubic_w_per_hz3: float
    waiting: float
    memory_bytes: int
    power_limit_w: float = 1e4

    @property
    def top_hz(self) -> float:
        """The highest frequency of the table."""
        return self.frequencies_hz[-1]

    def throttles(self, hz: float) -> bool:
        """Whether work at that frequency takes more than the limit."""
        return self.power_w(hz) > self.power_limit_w

    @property
    def held_hz(self) -> float:
        """The highest frequency that is held under load: what a device computes at."""
        return max(hz for hz in self.frequencies_hz if not self.throttles(hz))

    def seconds(self, flop: float, hz: float) -> float:
        """Time of one piece of work."""
        return self.overhead_s + flop / (hz * self.cores * self.flop_per_core_cycle)

    def power_w(self, hz: float) -> float:
        """At work."""
        return self.static_w + self.linear_w_per_hz * hz + self.cubic_w_per_hz3 * hz**3

    def wait_w(self, hz: float) -> float:
        """Waiting with the frequency held."""
        return self.static_w + self.waiting * (self.power_w(hz) - self.static_w)

    @property
    def idle_w(self) -> float:
        """Nothing held and nothing to do: the lowest frequency."""
        return self.wait_w(self.frequencies_hz[0])


@dataclass(frozen=True, kw_only=True)
class Work:
    """FLOPs of the pieces of one mini-batch."""

    model: Model
    training: Training

    def layer_flop(self, *, first: bool) -> tuple[float, float]:
        """Forward and backward of one layer; the first one's input needs no gradient."""
        m, t = self.model, self.training
        forward = backward = 0.0
        product = 2.0 * t.batch * m.heads * m.head_dim * t.sequence**2

        def linear(name: str, wants: bool) -> bool:
            """One map: its cost, and whether a gradient flows out of it."""
            nonlocal forward, backward
            a, b = m.map(name)
            forward += 2.0 * t.tokens * a * b
            # Frozen: only the gradient of its input.
            backward += 2.0 * t.tokens * a * b * wants
            if name not in t.targets:
                return wants
            forward += 2.0 * t.tokens * t.rank * (a + b)
            # dA needs dY B and x; dB needs dY and A x; dx needs a product more.
            backward += 2.0 * t.tokens * t.rank * (b + b + a + a * wants)
            return True

        q, k, v = (linear(name, not first) for name in ATTENTION_IN)
        forward += 2 * product
        backward += product * ((q or k) + v + q + k)
        attended = linear("o_proj", q or k or v)
        inside = [linear(name, attended or not first) for name in MLP_IN]
        linear("down_proj", any(inside))
        if t.checkpointing:
            a, b = m.map("down_proj")
            # Recomputing ends where the last thing that was saved is there again: before the map at the end.
            last = t.rank if "down_proj" in t.targets else a
            backward += forward - 2.0 * t.tokens * last * b
        return forward, backward

    def head_flop(self) -> tuple[float, float]:
        """The LM head; norm and loss are not products."""
        flop = 2.0 * self.training.tokens * self.model.hidden * self.model.vocab
        return flop, flop

    def flop(self, segment: str) -> tuple[float, float]:
        """Forward and backward of a segment."""
        if segment == "embedding":
            return 0.0, 0.0
        if segment == "head":
            return self.head_flop()
        return self.layer_flop(first=segment == "first_layer")

    def device_flop(self, cut: int) -> float:
        """Of the layers on a device."""
        return sum(self.flop("first_layer")) + (cut - 1) * sum(self.flop("layer"))

    def server_flop(self, cut: int) -> float:
        """Of the layers on the server and the head."""
        return (self.model.layers - cut) * sum(self.flop("layer")) + sum(self.flop("head"))

    @property
    def layer_adapters(self) -> int:
        """LoRA weights of a layer."""
        return sum(self.training.rank * sum(self.model.map(name)) for name in self.training.targets)

    def adapter_bytes(self, cut: int) -> int:
        """LoRA weights of the device's layers."""
        return cut * self.layer_adapters * BYTES[self.training.adapter_dtype]

    def hidden_values(self) -> int:
        """Numbers in one hidden state."""
        return self.training.tokens * self.model.hidden

    def device_s(self, machine: Machine, cut: int, hz: float) -> float:
        """A mini-batch on a device; the embedding is looked up, forward only."""
        seconds = machine.seconds(0.0, hz)
        for segment, count in (("first_layer", 1), ("layer", cut - 1)):
            seconds += count * sum(machine.seconds(flop, hz) for flop in self.flop(segment))
        return seconds

    def server_s(self, machine: Machine, cut: int, hz: float) -> float:
        """A mini-batch on the server."""
        layer = sum(machine.seconds(flop, hz) for flop in self.flop("layer"))
        head = sum(machine.seconds(flop, hz) for flop in self.flop("head"))
        return (self.model.layers - cut) * layer + head

    def whole_s(self, machine: Machine, hz: float) -> float:
        """A mini-batch of the whole model on one device."""
        head = sum(machine.seconds(flop, hz) for flop in self.flop("head"))
        return self.device_s(machine, self.model.layers, hz) + head

    def hidden_bytes(self, dtype: str) -> int:
        """One hidden state as it is computed."""
        return self.hidden_values() * BYTES[dtype]

    def device_known_bytes(self, dtype: str, cut: int) -> int:
        """What a device holds whatever its kernels save: framework, embedding, layers, what it sends and gets back."""
        table = self.model.vocab * self.model.hidden * BYTES[dtype]
        return FRAMEWORK_BYTES + table + cut * self.layer_memory_bytes(dtype) + 2 * self.hidden_bytes(dtype)

    def server_known_bytes(self, dtype: str, cut: int) -> int:
        """The same of the server: the layers above, the last norm, the head (tied or not, it is there), both states."""
        head = (self.model.vocab + 1) * self.model.hidden * BYTES[dtype]
        layers = (self.model.layers - cut) * self.layer_memory_bytes(dtype)
        return FRAMEWORK_BYTES + layers + head + 2 * self.hidden_bytes(dtype)

    def layer_memory_bytes(self, dtype: str) -> int:
        """What one more layer takes before anything is saved: weights, adapters, gradients, moments."""
        t = self.training
        weights = self.model.layer_weights * BYTES[dtype]
        copies = 2 + (2 if t.optimizer == "adamw" else 0)
        return weights + copies * self.layer_adapters * BYTES[t.adapter_dtype]


@dataclass(frozen=True, kw_only=True)
class Passing:
    """What a piece saves for its backward pass, and how high it rises beyond that."""

    saved: int
    peak: int


# Of each segment: what no closed form says, since it is a matter of kernels.
Passings = dict[str, Passing]


def device_bytes(work: Work, dtype: str, cut: int, passing: Passings) -> int:
    """A device's memory: everything saved is there when the costliest of its pieces is at its highest."""
    first, layer = passing["first_layer"], passing["layer"]
    peaks = (passing["embedding"].peak, first.peak, *[layer.peak] * (cut > 1))
    saved = passing["embedding"].saved + first.saved + (cut - 1) * layer.saved
    return work.device_known_bytes(dtype, cut) + saved + max(peaks)


def server_bytes(work: Work, dtype: str, cut: int, passing: Passings) -> int:
    """The server's."""
    layer, head = passing["layer"], passing["head"]
    saved = (work.model.layers - cut) * layer.saved + head.saved
    return work.server_known_bytes(dtype, cut) + saved + max(layer.peak, head.peak)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a plan is asked for; None was not asked. `in_file`: it is written in a scenario and not typed."""

    scheme: str
    order: tuple[int, ...]
    uplink_bps: float
    downlink_bps: float
    weight: float
    energy: str
    epochs: int
    compression: float
    wire: str
    deadline_s: float | None = None
    server_power_w: float | None = None
    server_energy_j: float | None = None
    device_energy_j: float | None = None
    least_layers: int | None = None
    confidence: float | None = None
    rtt_s: float = 0.0
    in_file: bool = False


@dataclass(frozen=True, kw_only=True)
class Terms:
    """A round of one device at one choice."""

    device: float
    uplink: float
    server: float
    downlink: float
    adapters: float
    power_w: float
    wait_w: float
    idle_w: float
    device_energy_j: float

    @property
    def delay_s(self) -> float:
        return self.device + self.uplink + self.server + self.downlink + self.adapters

    def energy_j(self, kind: str) -> float:
        """The server's, counted so."""
        if kind == "busy":
            return self.power_w * self.server
        if kind == "above_idle":
            return (self.power_w - self.idle_w) * self.server
        return self.power_w * self.server + self.wait_w * (self.delay_s - self.server)


@dataclass(frozen=True, kw_only=True)
class World:
    """One task, one server, some boards.

    `before` is what the server was when it was first measured and fitted; None if it has always been what it is.
    """

    work: Work
    server: Machine
    boards: tuple[Machine, ...]
    before: Machine | None = None

    def terms(self, asked: Asked, board: Machine, cut: int, hz: float, share: float = 1.0) -> Terms:
        """A round of a board at a cut and a server frequency, on a share of the link."""
        up, down = asked.uplink_bps * share, asked.downlink_bps * share
        bits = self.work.hidden_values() * BYTES[asked.wire] * BITS * asked.compression
        state = self.work.adapter_bytes(cut) * BITS * (1.0 + self.work.training.moments)
        # Labels of a mini-batch go up as they are, four bytes a token; CARD's terms have none.
        labels = 4 * BITS * self.work.training.tokens if asked.scheme == "sft" else 0
        device = asked.epochs * self.work.device_s(board, cut, board.held_hz)
        # One way is half of there and back: each mini-batch waits for a message up and one down, adapters both ways.
        return Terms(
            device=device,
            uplink=asked.epochs * ((bits + labels) / up + asked.rtt_s / 2.0),
            server=asked.epochs * self.work.server_s(self.server, cut, hz),
            downlink=asked.epochs * (bits / down + asked.rtt_s / 2.0),
            adapters=state * (1.0 / up + 1.0 / down) + asked.rtt_s,
            power_w=self.server.power_w(hz),
            wait_w=self.server.wait_w(hz),
            idle_w=self.server.idle_w,
            device_energy_j=board.power_w(board.held_hz) * device,
        )

    def choices(self, asked: Asked, board: Machine) -> dict[tuple[int, float], Terms]:
        """Every cut at every frequency."""
        return {
            (cut, hz): self.terms(asked, board, cut, hz)
            for cut in range(1, self.work.model.layers)
            for hz in self.server.frequencies_hz
        }

    def together(self, asked: Asked, cuts: tuple[int, ...], hz: float) -> Together:
        """Parallel devices, each waiting for the server to serve all of them, on the best shares of one link."""
        terms = [self.terms(asked, self.boards[i], cut, hz) for i, cut in zip(asked.order, cuts, strict=True)]
        served = sum(t.server for t in terms)
        waits = 2.0 * asked.rtt_s / 2.0 * (asked.epochs + 1)
        fixed = tuple(t.device + served + waits for t in terms)
        air = tuple(t.delay_s - t.device - t.server - waits for t in terms)
        # The more time, the less of the link: where the shares that are needed add up to the whole.
        low, high = max(fixed), max(fixed) + sum(air)
        for _ in range(50):
            middle = 0.5 * (low + high)
            enough = middle > max(fixed) and sum(a / (middle - f) for a, f in zip(air, fixed, strict=True)) <= 1.0
            low, high = (low, middle) if enough else (middle, high)
        return Together(fixed_s=fixed, air_s=air, delay_s=high)

    def capped_hz(self, asked: Asked, slack: float) -> float | None:
        """The server's highest frequency under a cap on its power; None if there is none."""
        cap = asked.server_power_w
        held = [
            hz for hz in self.server.frequencies_hz if cap is None or self.server.power_w(hz) <= cap * (1.0 + slack)
        ]
        return max(held, default=None)

    def shared(self, asked: Asked, fits: set[tuple[int, int]], slack: float) -> dict[tuple[int, ...], Together]:
        """Every allocation of layers to parallel devices that keeps each limit; `fits`: (place in the order, cut)."""
        hz = self.capped_hz(asked, slack)
        if hz is None:
            return {}
        each = [
            [
                cut
                for cut in range(1, self.work.model.layers)
                if (place, cut) in fits
                and kept(asked, self.terms(asked, self.boards[i], cut, hz), cut, slack, late=True)
            ]
            for place, i in enumerate(asked.order)
        ]
        allocations: list[tuple[int, ...]] = [()]
        for own in each:
            allocations = [(*before, cut) for before in allocations for cut in own]
        every = {cuts: self.together(asked, cuts, hz) for cuts in allocations}
        limit = asked.deadline_s
        return {cuts: t for cuts, t in every.items() if limit is None or t.delay_s <= limit * (1.0 + slack)}


@dataclass(frozen=True, kw_only=True)
class Together:
    """A round of parallel devices: what no share changes, the air with all of the link, and the slowest's delay."""

    fixed_s: tuple[float, ...]
    air_s: tuple[float, ...]
    delay_s: float


def costs(asked: Asked, choices: dict[tuple[int, float], Terms]) -> dict[tuple[int, float], float]:
    """CARD's weighted sum, delay and energy scaled to their ranges over every choice."""
    delays = [t.delay_s for t in choices.values()]
    energies = [t.energy_j(asked.energy) for t in choices.values()]
    w = asked.weight
    return {
        place: w * _scaled(t.delay_s, delays) + (1.0 - w) * _scaled(t.energy_j(asked.energy), energies)
        for place, t in choices.items()
    }


def _scaled(value: float, values: list[float]) -> float:
    low, high = min(values), max(values)
    return (value - low) / (high - low) if high > low else 0.0


def kept(asked: Asked, terms: Terms, cut: int, slack: float, *, late: bool = False) -> bool:
    """Whether a choice keeps every limit; `slack` above 0 is generous, below 0 strict; `late`: but the deadline."""
    room = 1.0 + slack
    return (
        (late or asked.deadline_s is None or terms.delay_s <= asked.deadline_s * room)
        and (asked.server_power_w is None or terms.power_w <= asked.server_power_w * room)
        and (asked.server_energy_j is None or terms.energy_j(asked.energy) <= asked.server_energy_j * room)
        and (asked.device_energy_j is None or terms.device_energy_j <= asked.device_energy_j * room)
        and (asked.least_layers is None or cut >= asked.least_layers)
    )
