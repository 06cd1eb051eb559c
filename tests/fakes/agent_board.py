"""Small board trees for the agent: GPU clock node, power monitor, identity; still, so readings are constants."""

from __future__ import annotations

from pathlib import Path

SERIAL = "1421234567890"
CLOCKS = "306000000 408000000 510000000 612000000 714000000 816000000 918000000"
_ORIN_NX = (("VDD_IN", 5000, 1600), ("VDD_CPU_GPU_CV", 5000, 400), ("VDD_SOC", 5000, 200))
_AGX = (("VDD_GPU_SOC", 12000, 280), ("VDD_CPU_CV", 12000, 40), ("VIN_SYS_5V0", 4968, 980))


def make_board(root: Path, kind: str) -> None:
    """Write the tree of "orin-nx", "agx-orin", "nano" or "bare-orin-nx" (no power monitor)."""
    write(root, "proc/device-tree/compatible", "nvidia,p3767-0000\0nvidia,tegra234\0")
    write(root, "proc/device-tree/serial-number", SERIAL + "\0")
    write(root, "proc/device-tree/model", f"NVIDIA {kind}\0")
    write(root, "proc/meminfo", "MemTotal:       16000000 kB\nMemAvailable:   12000000 kB\n")
    gpu = "sys/class/devfreq/17000000.gpu"
    write(root, f"{gpu}/device/of_node/name", "gpu\0")
    write(root, f"{gpu}/available_frequencies", CLOCKS + "\n")
    for name, value in (("min_freq", 306000000), ("max_freq", 918000000), ("cur_freq", 918000000)):
        write(root, f"{gpu}/{name}", f"{value}\n")
    if kind == "orin-nx":
        hwmon(root, "hwmon1", _ORIN_NX, 5000)
    elif kind == "agx-orin":
        hwmon(root, "hwmon1", _AGX, 2000)
        hwmon(root, "hwmon2", (("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 4968, 80)), 2000)
    elif kind == "nano":
        node = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
        for k, (name, milliwatt) in enumerate((("POM_5V_IN", 2500), ("POM_5V_GPU", 1000), ("POM_5V_CPU", 500))):
            write(root, f"{node}/rail_name_{k}", name + "\n")
            write(root, f"{node}/in_power{k}_input", f"{milliwatt}\n")
            write(root, f"{node}/polling_delay_{k}", "0 ms\n")


def hwmon(root: Path, name: str, rails: tuple[tuple[str, int, int], ...], shunt_uohm: int) -> None:
    """An INA3221 as hwmon shows it: mV, mA, micro-ohm, ms."""
    node = f"sys/class/hwmon/{name}"
    write(root, f"{node}/name", "ina3221\n")
    write(root, f"{node}/update_interval", "7\n")
    for k, (label, millivolt, milliampere) in enumerate(rails, start=1):
        write(root, f"{node}/in{k}_label", label + "\n")
        write(root, f"{node}/in{k}_input", f"{millivolt}\n")
        write(root, f"{node}/curr{k}_input", f"{milliampere}\n")
        write(root, f"{node}/shunt{k}_resistor", f"{shunt_uohm}\n")


def write(root: Path, name: str, text: str) -> None:
    """A file below the root."""
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
