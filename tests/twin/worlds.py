"""Worlds drawn at random: tasks, machines, executions, links, limits and what is asked."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from tests.twin.truth import BITS, BYTES, FRAMEWORK_BYTES, Asked, Machine, Model, Terms, Training, Work, World

BOARDS = ("agx-orin-1", "orin-nx", "orin-nano")
SERVER = "rtx-4060-ti"
# Which sets of modules people adapt: the default, attention, everything, the MLP alone.
TARGETS = (
    ("q_proj", "v_proj"),
    ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"),
    ("down_proj", "gate_proj", "up_proj"),
)
SLOWEST_BPS = 2e4
DTYPES = ("float32", "bfloat16", "float16")


def within(low: float, high: float) -> st.SearchStrategy[float]:
    """A number spread evenly over its logarithm's thousandths: shrinks to the low end, and prints short."""
    return st.integers(0, 1000).map(lambda i: round(low * (high / low) ** (i / 1000), 12))


@st.composite
def models(draw: st.DrawFn) -> Model:
    head_dim, kv_heads = draw(st.sampled_from((8, 16))), draw(st.sampled_from((1, 2)))
    heads = kv_heads * draw(st.sampled_from((1, 2)))
    return Model(
        layers=draw(st.integers(2, 7)),
        hidden=draw(st.sampled_from((32, 48, 96))),
        inner=draw(st.sampled_from((40, 96, 200))),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=draw(st.sampled_from((96, 256, 1000))),
        tied=draw(st.booleans()),
    )


@st.composite
def trainings(draw: st.DrawFn) -> Training:
    return Training(
        batch=draw(st.integers(1, 4)),
        sequence=draw(st.sampled_from((8, 24, 48))),
        rank=draw(st.sampled_from((1, 4, 8))),
        targets=draw(st.sampled_from(TARGETS)),
        adapter_dtype=draw(st.sampled_from(("float32", "bfloat16"))),
        optimizer=draw(st.sampled_from(("sgd", "adamw"))),
        checkpointing=draw(st.booleans()),
    )


@st.composite
def machines(draw: st.DrawFn, label: str, kind: str, work: Work, frequencies: int) -> Machine:
    """A machine on which a layer takes some tens of milliseconds, whatever the layer is."""
    low = draw(within(2e8, 8e8))
    step = draw(within(6e7, 2e8))
    hz = tuple(round(low + i * step) * 1.0 for i in range(frequencies))
    cores = draw(st.sampled_from((512, 1024, 4352)))
    layer_s = draw(within(0.01, 0.3))
    overhead_s = draw(within(0.002, 0.02))
    flop = work.flop("layer")[0]
    static, top = draw(within(2.0, 60.0)), hz[-1]
    linear, cubic = draw(within(0.02, 1.5)), draw(within(0.05, 3.0))
    return Machine(
        label=label,
        kind=kind,
        dtype=draw(st.sampled_from(DTYPES)),
        frequencies_hz=hz,
        cores=cores,
        flop_per_core_cycle=flop / (layer_s * hz[frequencies // 2] * cores),
        overhead_s=overhead_s,
        static_w=static,
        linear_w_per_hz=linear * static / top,
        cubic_w_per_hz3=cubic * static / top**3,
        waiting=draw(st.sampled_from((0.1, 0.3, 0.6))),
        memory_bytes=2**33,
    )


def about_saved_bytes(work: Work, dtype: str) -> int:
    """What a layer saves for its backward pass, roughly: only to draw memories that some of the cuts fit in."""
    m, t = work.model, work.training
    values = t.tokens * (8 * m.hidden + 5 * m.inner + 4 * m.heads * m.head_dim)
    return t.tokens * m.hidden * BYTES[dtype] if t.checkpointing else values * BYTES[dtype]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    work = Work(model=draw(models()), training=draw(trainings()))
    boards = []
    for index in range(draw(st.integers(1, 3))):
        board = draw(machines(f"board-{index}", BOARDS[index], work, 3))
        # Some boards hold a part of the cuts only, so that memory decides.
        if draw(st.integers(0, 2)) == 0:
            table = work.model.vocab * work.model.hidden * BYTES[board.dtype]
            layer = work.layer_memory_bytes(board.dtype) + about_saved_bytes(work, board.dtype)
            # One more than the layers that it shall hold, for the transient of the costliest one.
            room = table + int(layer * (draw(st.integers(1, work.model.layers)) + 1.5))
            board = replace(board, memory_bytes=FRAMEWORK_BYTES + room)
        # Some cannot hold their highest frequency.
        if draw(st.integers(0, 3)) == 0:
            middle, top = board.power_w(board.frequencies_hz[-2]), board.power_w(board.top_hz)
            board = replace(board, power_limit_w=0.4 * middle + 0.6 * top)
        boards.append(board)
    server = draw(machines("server", SERVER, work, draw(st.integers(7, 9))))
    aged = draw(st.integers(0, 4)) == 0
    before = replace(server, overhead_s=1.5 * server.overhead_s, static_w=1.4 * server.static_w) if aged else None
    return World(work=work, server=server, boards=tuple(boards), before=before)


@st.composite
def questions(draw: st.DrawFn, world: World) -> Asked:
    """Something to ask of that world: a link on which the air is worth a thought, limits that bite now and then."""
    work = world.work
    wire = draw(st.sampled_from((world.server.dtype, *DTYPES)))
    batch_s = work.server_s(world.server, 1, world.server.top_hz)
    bits = work.hidden_values() * BYTES[wire] * BITS
    # No slower than a link can be: below that a rate is taken for one in another unit, and refused.
    rates = [max(SLOWEST_BPS, bits / (batch_s * draw(within(0.02, 2.0)))) for _ in range(2)]
    # The parallel scheme decides with other means, and is asked for less often; it counts the server's busy time alone.
    scheme = draw(st.sampled_from(("card", "card", "card", "sft", "sft")))
    asked = Asked(
        scheme=scheme,
        order=tuple(draw(st.permutations(range(len(world.boards))))),
        uplink_bps=float(round(rates[0])),
        downlink_bps=float(round(rates[1])),
        weight=draw(st.sampled_from((0.0, 0.2, 0.5, 0.8, 1.0))),
        energy="busy" if scheme == "sft" else draw(st.sampled_from(("busy", "above_idle", "round"))),
        epochs=draw(st.integers(1, 5)),
        compression=draw(st.sampled_from((1.0, 1.0, 0.5, 0.125))),
        wire=wire,
        rtt_s=draw(st.sampled_from((0.0, 0.0, 0.004, 0.05))),
        in_file=draw(st.integers(0, 3)) == 3,
    )
    return draw(limited(world, asked))


@st.composite
def limited(draw: st.DrawFn, world: World, asked: Asked) -> Asked:
    """The same with a limit or two that some choices keep."""
    choices = world.choices(asked, world.boards[0])

    def between(name: str, values: list[float]) -> float | None:
        # Four of them and several devices: were they drawn more often, most questions would have no answer.
        if draw(st.integers(0, 4)) < 4:
            return None
        low, high = min(values), max(values)
        return float(f"{low + (high - low) * draw(st.sampled_from((0.3, 0.45, 0.6, 0.9))):.4g}")

    terms: list[Terms] = list(choices.values())
    delays = [t.delay_s for t in terms]
    if asked.scheme == "sft":
        cuts = range(1, world.work.model.layers)
        delays = [world.together(asked, (c,) * len(asked.order), world.server.top_hz).delay_s for c in cuts]
        # The quickest is what is chosen: only a deadline that nothing keeps shows whether there is one.
        delays.append(0.5 * min(delays))
        # At its one frequency; caps on power come down to it.
        terms = [t for (_, hz), t in choices.items() if hz == world.server.top_hz] + terms[:1]
    deadline = between("deadline", delays)
    return replace(
        asked,
        deadline_s=deadline,
        server_power_w=between("power", [world.server.power_w(hz) for hz in world.server.frequencies_hz]),
        server_energy_j=between("energy", [t.energy_j(asked.energy) for t in terms]),
        device_energy_j=between("device", [t.device_energy_j for t in terms]),
        least_layers=draw(st.sampled_from((None, None, None, 2))),
        # A plan of parallel devices takes none.
        confidence=draw(st.sampled_from((None, 0.99))) if deadline is not None and asked.scheme == "card" else None,
    )
