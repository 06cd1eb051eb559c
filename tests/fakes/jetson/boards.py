"""Boards that the fake trees can be: clocks, rails, identity and where each release keeps its files."""

from __future__ import annotations

from dataclasses import dataclass, field

NANO_HZ = tuple(76_800_000 * i for i in range(1, 13))
XAVIER_NX_HZ = tuple(
    int(mhz * 1e6)
    for mhz in (
        114.75,
        204,
        306,
        408,
        510,
        599.25,
        701.25,
        752.25,
        803.25,
        854.25,
        905.25,
        956.25,
        1007.25,
        1058.25,
        1109.25,
    )
)
AGX_XAVIER_HZ = tuple(
    int(mhz * 1e6)
    for mhz in (
        114.75,
        216.75,
        318.75,
        420.75,
        522.75,
        624.75,
        675.75,
        828.75,
        905.25,
        1032.75,
        1198.5,
        1236.75,
        1338.75,
        1377,
    )
)
AGX_ORIN_OLD_HZ = tuple(
    int(mhz * 1e6)
    for mhz in (
        114.75,
        216.75,
        318.75,
        420.75,
        522.75,
        624.75,
        726.75,
        828.75,
        930.75,
        1032.75,
        1134.75,
        1236.75,
        1300.5,
    )
)


def steps(*last_mhz: float) -> tuple[int, ...]:
    """306 MHz in steps of 102, then the last ones."""
    hz = [306_000_000]
    while hz[-1] + 102_000_000 < last_mhz[0] * 1e6:
        hz.append(hz[-1] + 102_000_000)
    return (*hz, *(int(mhz * 1e6) for mhz in last_mhz))


AGX_ORIN_HZ = steps(1300.5)
ORIN_RAILS = {"1-0040": ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")}
AGX_RAILS = {
    "1-0040": ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    "1-0041": ("NC", "VDDQ_VDD2_1V8AO", "NC"),
}
AGX_MODES = (
    ("MAXN", 0, -1, 12, 0),
    ("MODE_15W", 248, 408000000, 4, 2133000000),
    ("MODE_30W", 240, 612000000, 8, 0),
    ("MODE_50W", 0, 816000000, 12, 0),
)
NX_MODES = (
    ("MAXN", 240, -1, 8, 0),
    ("10W", 252, 612000000, 4, 2133000000),
    ("15W", 252, 612000000, 4, 0),
    ("25W", 240, 408000000, 8, 0),
)
NANO_ORIN_MODES = (("15W", 240, -1, 6, 0), ("7W", 252, 408000000, 4, 2133000000))


@dataclass(frozen=True)
class FakeBoard:
    """What a tree is made of.

    `gpu` is the device's folder below /sys/devices, `node` its of_node name, `kernel` the semantics of its limits.
    `modes` are (name, mask, GPU cap, CPUs, EMC cap); `rails` lists channels by bus address.
    """

    model: str
    compatible: tuple[str, ...]
    release: str
    kernel: str
    gpu: str
    node: str
    table_hz: tuple[int, ...]
    cores: int
    memory_mib: int
    bucket: str
    rails: dict[str, tuple[str, ...]]
    total: tuple[str, ...]
    modes: tuple[tuple[str, int | None, int, int, int], ...]
    mode: int = 0
    default_mode: int = 0
    mask: int | None = None
    volts: dict[str, float] = field(default_factory=dict)
    shunt_uohm: int = 5000
    samples: int = 64
    iio: bool = False
    cpus: int = 8
    extra_clocks: tuple[str, ...] = ()


R35 = "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64"
R36 = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64"
R32 = "# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref, EABI: aarch64"


def _orin(part: str, carrier: str = "p3768-0000") -> tuple[str, ...]:
    return (f"nvidia,{carrier}+{part}", f"nvidia,{part}", "nvidia,tegra234")


def _agx(part: str, *, release: str = R36, table: tuple[int, ...] = AGX_ORIN_HZ, **other: object) -> FakeBoard:
    platform = "platform/bus@0/17000000.gpu" if release == R36 else "platform/17000000.ga10b"
    values: dict[str, object] = {
        "model": "NVIDIA Jetson AGX Orin Developer Kit",
        "compatible": _orin(part, "p3737-0000"),
        "release": release,
        "kernel": "5.10",
        "gpu": platform,
        "node": "gpu" if release == R36 else "ga10b",
        "table_hz": table,
        "cores": 2048,
        "memory_mib": 62780,
        "bucket": "64GB",
        "rails": AGX_RAILS,
        "total": ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
        "modes": AGX_MODES,
        "mask": 0,
        "volts": {"VDD_GPU_SOC": 12.0, "VDD_CPU_CV": 12.0, "VIN_SYS_5V0": 5.0, "VDDQ_VDD2_1V8AO": 5.0},
        "shunt_uohm": 2000,
        "cpus": 12,
    }
    return FakeBoard(**{**values, **other})  # type: ignore[arg-type]


def _small_orin(part: str, model: str, table: tuple[int, ...], **other: object) -> FakeBoard:
    values: dict[str, object] = {
        "model": f"NVIDIA Jetson {model} Engineering Reference Developer Kit",
        "compatible": _orin(part),
        "release": R36,
        "kernel": "5.10",
        "gpu": "platform/bus@0/17000000.gpu",
        "node": "gpu",
        "table_hz": table,
        "cores": 1024,
        "memory_mib": 15656,
        "bucket": "16GB",
        "rails": ORIN_RAILS,
        "total": ("VDD_IN",),
        "modes": NX_MODES,
        "mask": 240,
    }
    return FakeBoard(**{**values, **other})  # type: ignore[arg-type]


_NANO_MODES = (("MAXN", None, -1, 4, 0), ("5W", None, 640000000, 2, 1600000000))
BOARDS = {
    "agx-orin-64": _agx("p3701-0005"),
    "agx-orin-64-jp5": _agx("p3701-0000", release=R35, table=AGX_ORIN_OLD_HZ),
    "agx-orin-64-30w": _agx("p3701-0005", mode=2, mask=240),
    "agx-orin-64-15w": _agx("p3701-0005", mode=1, mask=248),
    "agx-orin-32": _agx(
        "p3701-0004",
        table=(*AGX_ORIN_HZ[:7], 930_750_000),
        cores=1792,
        memory_mib=30536,
        bucket="32GB",
        cpus=8,
        mask=128,
        modes=(("MAXN", 128, -1, 8, 0), ("MODE_15W", 248, 408000000, 4, 2133000000)),
    ),
    "orin-nx-16": _small_orin("p3767-0000", "Orin NX", steps(918)),
    "orin-nx-16-jp5": _small_orin(
        "p3767-0000", "Orin NX", steps(918), release=R35, gpu="platform/17000000.ga10b", node="ga10b"
    ),
    "orin-nx-16-15w": _small_orin("p3767-0000", "Orin NX", steps(918), mode=2, mask=252),
    "orin-nx-8": _small_orin("p3767-0001", "Orin NX", steps(765), memory_mib=7620, bucket="8GB", cpus=6),
    "orin-nx-super": _small_orin("p3767-0000", "Orin NX Super", steps(1173)),
    "orin-nano-8": _small_orin(
        "p3767-0005",
        "Orin Nano",
        steps(612, 624.75),
        memory_mib=7620,
        bucket="8GB",
        modes=NANO_ORIN_MODES,
        samples=512,
        cpus=6,
    ),
    "orin-nano-super": _small_orin(
        "p3767-0005",
        "Orin Nano Super",
        steps(1020),
        memory_mib=7620,
        bucket="8GB",
        samples=512,
        cpus=6,
        modes=(
            ("15W", 240, 612000000, 6, 2133000000),
            ("25W", 240, 918000000, 6, 3199000000),
            ("MAXN_SUPER", 240, -1, 6, 0),
        ),
        mode=2,
    ),
    "orin-nano-4": _small_orin(
        "p3767-0004",
        "Orin Nano",
        steps(612, 624.75),
        cores=512,
        memory_mib=3964,
        bucket="4GB",
        mask=252,
        cpus=6,
        modes=(("10W", 252, -1, 6, 0), ("7W_AI", 252, 408000000, 4, 2133000000)),
    ),
    "xavier-nx": FakeBoard(
        model="NVIDIA Jetson Xavier NX Developer Kit",
        compatible=("nvidia,p3449-0000+p3668-0000", "nvidia,p3509-0000+p3668-0000", "nvidia,tegra194"),
        release=R35,
        kernel="5.10",
        gpu="platform/17000000.gv11b",
        node="gv11b",
        table_hz=XAVIER_NX_HZ,
        cores=384,
        memory_mib=7759,
        bucket="8GB",
        rails={"7-0040": ORIN_RAILS["1-0040"]},
        total=("VDD_IN",),
        modes=(("15W_2CORE", 1, 1109250000, 2, 0), ("15W_4CORE", 1, 1109250000, 4, 0)),
        mode=1,
        mask=1,
        cpus=6,
    ),
    "agx-xavier": FakeBoard(
        model="Jetson-AGX",
        compatible=("nvidia,p2822-0000+p2888-0004", "nvidia,tegra194"),
        release=R32,
        kernel="4.9",
        gpu="17000000.gv11b",
        node="gv11b",
        table_hz=AGX_XAVIER_HZ,
        cores=512,
        memory_mib=31920,
        bucket="32GB",
        rails={"1-0040": ("GPU", "CPU", "SOC"), "1-0041": ("CV", "VDDRQ", "SYS5V")},
        total=("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
        modes=(("MAXN", 0, -1, 8, 0), ("MODE_10W", 5, 520000000, 2, 1066000000)),
        mask=0,
        iio=True,
    ),
    "nano": FakeBoard(
        model="NVIDIA Jetson Nano Developer Kit",
        compatible=("nvidia,p3449-0000-b00+p3448-0000-b00", "nvidia,jetson-nano", "nvidia,tegra210"),
        release=R32,
        kernel="4.9",
        gpu="57000000.gpu",
        node="gpu",
        table_hz=NANO_HZ,
        cores=128,
        memory_mib=3964,
        bucket="4GB",
        rails={"6-0040": ("POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU")},
        total=("POM_5V_IN",),
        modes=_NANO_MODES,
        iio=True,
        cpus=4,
    ),
    "nano-2gb": FakeBoard(
        model="NVIDIA Jetson Nano 2GB Developer Kit",
        compatible=("nvidia,p3542-0000+p3448-0003", "nvidia,jetson-nano", "nvidia,tegra210"),
        release=R32,
        kernel="4.9",
        gpu="57000000.gpu",
        node="gpu",
        table_hz=NANO_HZ,
        cores=128,
        memory_mib=1972,
        bucket="2GB",
        rails={},
        total=(),
        modes=_NANO_MODES,
        iio=True,
        cpus=4,
    ),
}
