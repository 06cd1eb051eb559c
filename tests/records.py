"""Records for tests, made the way a profile makes them."""

from __future__ import annotations

from cardlab.core.identity import new_uid
from cardlab.core.quantity import MEASURED, Estimate
from cardlab.core.records.device import Device, Environment
from cardlab.core.records.measurement import Measurement, MeterReading, OperatingPoint, PlannedPoint, Run, RunKind
from cardlab.core.records.task import Architecture, Execution, Lora, Task
from cardlab.core.records.workload import Analysis, CutCost, SegmentCost

ARCHITECTURE = Architecture(
    family="llama",
    layers=4,
    hidden_size=64,
    intermediate_size=160,
    heads=4,
    kv_heads=2,
    head_dim=16,
    vocab_size=512,
    max_positions=256,
    tied_embeddings=True,
)
TASK = Task(model="tiny-llama", architecture=ARCHITECTURE, lora=Lora(), batch=1, sequence=32)
EXECUTION = Execution(dtype="float32", torch="2.13")
DEVICE = Device(
    key="cpu:0123", name="bench-1", platform="cpu", cores=2, memory_bytes=24 * 2**30, details={"root": False}
)
ENVIRONMENT = Environment(versions={"python": "3.11.7", "torch": "2.13.0"})


def segment(name: str, count: int = 1, flop: float = 1e9) -> SegmentCost:
    return SegmentCost(segment=name, count=count, forward_flop=flop, backward_flop=flop)


ANALYSIS = Analysis(
    parameters=1000,
    trainable_parameters=10,
    segments=(segment("embedding", flop=0.0), segment("first_layer"), segment("layer", 3), segment("head")),
    cuts=tuple(
        CutCost(
            cut=c,
            device_flop=c * 2e9,
            server_flop=(5 - c) * 2e9,
            activation_bytes=8192,
            gradient_bytes=8192,
            adapter_bytes=c * 100,
        )
        for c in (1, 2, 3)
    ),
)


def run(**changes: object) -> Run:
    values: dict[str, object] = {
        "uid": new_uid(),
        "kind": RunKind.PROFILE,
        "device": DEVICE,
        "execution": EXECUTION,
        "environment": ENVIRONMENT,
        "task": TASK,
        "analysis": ANALYSIS,
        "planned": (PlannedPoint(index=0),),
        "options": {"repeats": 7},
        "provenance": MEASURED,
        "started_at": "2026-11-21T10:00:00.000000Z",
    }
    return Run(**{**values, **changes})  # type: ignore[arg-type]


def latency(segment: str, phase: str, value_s: float) -> Measurement:
    return Measurement(
        uid=new_uid(),
        quantity="latency",
        unit="s",
        segment=segment,
        phase=phase,
        estimate=Estimate(value_s, value_s / 100, (value_s * 0.98, value_s * 1.02), 7),
        samples={"wall_s": (value_s, value_s * 1.01, value_s * 0.99)},
    )


def power(value_w: float, quantity: str = "power", rail: str = "board", total: bool = True) -> Measurement:
    return Measurement(
        uid=new_uid(),
        quantity=quantity,
        unit="W",
        rail=rail,
        estimate=Estimate(value_w, value_w / 200, None, 20),
        meter=MeterReading(total=total),
    )


OPERATING = OperatingPoint(frequency_hz=1.5e9, temperature_c=50.0, throttled=False)


def operating(frequency_hz: float) -> OperatingPoint:
    return OperatingPoint(frequency_hz=frequency_hz, temperature_c=50.0, throttled=False)
