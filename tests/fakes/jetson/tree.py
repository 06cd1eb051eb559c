"""Builds the files of a fake board below a folder, where the kernel and L4T keep them."""

from __future__ import annotations

from pathlib import Path

from tests.fakes.jetson.boards import FakeBoard

IDLE_W = {"VDD_IN": 5.0, "VDD_GPU_SOC": 2.4, "VDD_CPU_CV": 0.8, "VIN_SYS_5V0": 3.5, "VDDQ_VDD2_1V8AO": 0.3}
EMC_HZ = (204_000_000, 3_199_000_000)
NANO_EMC_HZ = (204_000_000, 1_600_000_000)
CPU_KHZ = (115_200, 1_984_000)


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def show(path: Path, text: str) -> None:
    """Another value in a file that is there, as a kernel would show it: no reader finds it empty.

    A file that is emptied and written again costs a millisecond on ext4, which then goes to the disk at once.
    """
    with path.open("r+", encoding="utf-8") as file:
        file.write(text)
        file.truncate()


def link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target, target_is_directory=True)


def build(board: FakeBoard, root: Path) -> Path:
    """The tree of a board that was just switched on; the GPU's devfreq folder is returned."""
    _identity(board, root)
    _modes(board, root)
    folder = _gpu(board, root)
    _emc(board, root)
    _cpu(board, root)
    _rails(board, root)
    _thermal(board, root)
    return folder


def _identity(board: FakeBoard, root: Path) -> None:
    tree = root / "proc/device-tree"
    put(tree / "model", board.model + "\0")
    put(tree / "compatible", "".join(text + "\0" for text in board.compatible))
    put(tree / "serial-number", "1421023012345\0")
    put(root / "etc/nv_tegra_release", board.release + "\n# KERNEL_VARIANT: oot\n")
    total = board.memory_mib * 1024
    put(root / "proc/meminfo", f"MemTotal: {total} kB\nMemFree: 100000 kB\nMemAvailable: {total // 2} kB\n")


def _modes(board: FakeBoard, root: Path) -> None:
    """As NVIDIA's files are: a line without its space, names with a suffix, comments."""
    lines = [
        "# nvpmodel",
        "< PARAM TYPE=FILE NAME=CPU_ONLINE >",
        "CORE_0 /sys/devices/system/cpu/cpu0/online",
        "<PARAM TYPE=CLOCK NAME=EMC >",
        "MAX_FREQ /sys/kernel/nvpmodel_clk_cap/emc",
        "",
    ]
    for number, (name, mask, gpu_hz, cpus, emc_hz) in enumerate(board.modes):
        lines.append(f"< POWER_MODEL ID={number} NAME={name} >")
        lines += [f"CPU_ONLINE CORE_{core} {int(core < cpus)}" for core in range(board.cpus)]
        if mask is not None:
            lines.append(f"TPC_POWER_GATING TPC_PG_MASK {mask}")
        lines += [f"GPU{'_KNEXT' if number % 2 else ''} MAX_FREQ {gpu_hz}", f"EMC MAX_FREQ {emc_hz}", ""]
    lines.append(f"< PM_CONFIG DEFAULT={board.default_mode} >")
    put(root / "etc/nvpmodel.conf", "\n".join(lines))
    put(root / "var/lib/nvpmodel/status", f"pmode:{board.mode:04d} fmode:quiet\n")


def _gpu(board: FakeBoard, root: Path) -> Path:
    device = root / "sys/devices" / board.gpu
    name = device.name
    folder = device / "devfreq" / name
    cap = board.modes[board.mode][2]
    highest = max(hz for hz in board.table_hz if cap < 0 or hz <= cap)
    put(folder / "available_frequencies", " ".join(map(str, board.table_hz)) + "\n")
    for file, hz in (("cur_freq", board.table_hz[0]), ("min_freq", board.table_hz[0]), ("max_freq", highest)):
        put(folder / file, f"{hz}\n")
    put(folder / "governor", "nvhost_podgov\n")
    put(device / "of_node/name", board.node + "\0")
    put(device / "railgate_enable", "1\n")
    put(device / "is_railgated", "0\n")
    put(device / "power/control", "auto\n")
    put(device / "load", "0\n")
    if board.mask is not None:
        put(device / "tpc_pg_mask", f"{board.mask}\n")
    link(folder / "device", device)
    link(root / "sys/class/devfreq" / name, folder)
    # Another devfreq device, which is no GPU.
    other = root / "sys/devices/15340000.vic"
    put(other / "of_node/name", "vic\0")
    put(other / "devfreq/15340000.vic/available_frequencies", "115200000\n")
    link(other / "devfreq/15340000.vic/device", other)
    link(root / "sys/class/devfreq/15340000.vic", other / "devfreq/15340000.vic")
    return folder


def _emc(board: FakeBoard, root: Path) -> None:
    debug = root / "sys/kernel/debug"
    if "tegra210" in board.compatible[-1]:
        put(debug / "clk/override.emc/clk_rate", f"{NANO_EMC_HZ[0]}\n")
        put(debug / "clk/override.emc/clk_update_rate", f"{NANO_EMC_HZ[0]}\n")
        put(debug / "clk/override.emc/clk_state", "0\n")
        put(debug / "tegra_bwmgr/emc_min_rate", f"{NANO_EMC_HZ[0]}\n")
        put(debug / "tegra_bwmgr/emc_max_rate", f"{NANO_EMC_HZ[1]}\n")
        return
    emc = debug / "bpmp/debug/clk/emc"
    for name, value in (("rate", EMC_HZ[0]), ("min_rate", EMC_HZ[0]), ("max_rate", EMC_HZ[1]), ("mrq_rate_locked", 0)):
        put(emc / name, f"{value}\n")
    put(root / "sys/kernel/nvpmodel_clk_cap/emc", f"{board.modes[board.mode][4]}\n")


def _cpu(board: FakeBoard, root: Path) -> None:
    base = root / "sys/devices/system/cpu"
    for number in range(0, board.cpus, 4):
        policy = base / f"cpufreq/policy{number}"
        put(policy / "scaling_governor", "schedutil\n")
        put(policy / "scaling_available_governors", "interactive ondemand performance schedutil\n")
        for name, khz in (
            ("cpuinfo_min_freq", CPU_KHZ[0]),
            ("cpuinfo_max_freq", CPU_KHZ[1]),
            ("scaling_min_freq", CPU_KHZ[0]),
            ("scaling_max_freq", CPU_KHZ[1]),
            ("scaling_cur_freq", 729_600),
            ("cpuinfo_cur_freq", 729_600),
        ):
            put(policy / name, f"{khz}\n")
        for core in range(number, min(number + 4, board.cpus)):
            link(base / f"cpu{core}/cpufreq", policy)


def _rails(board: FakeBoard, root: Path) -> None:
    for index, (address, channels) in enumerate(board.rails.items()):
        device = root / "sys/bus/i2c/devices" / address
        put(device / "name", "ina3221x\n" if board.iio else "ina3221\n")
        if board.iio:
            _iio(device / f"iio:device{index}", channels)
            link(root / "sys/bus/i2c/drivers/ina3221x" / address, device)
        else:
            # The number is not the order of the addresses.
            _hwmon(board, device / "hwmon" / f"hwmon{4 - index}", channels)
            link(root / f"sys/class/hwmon/hwmon{4 - index}", device / f"hwmon/hwmon{4 - index}")


def _iio(folder: Path, channels: tuple[str, ...]) -> None:
    for k, name in enumerate(channels):
        put(folder / f"rail_name_{k}", name + "\n")
        put(folder / f"in_power{k}_input", "1000\n")
        put(folder / f"in_voltage{k}_input", "5000\n")
        put(folder / f"in_current{k}_input", "200\n")
        put(folder / f"polling_delay_{k}", "0 ms\n")


def _hwmon(board: FakeBoard, folder: Path, channels: tuple[str, ...]) -> None:
    link(folder / "device", folder.parents[1])
    put(folder / "name", "ina3221\n")
    put(folder / "samples", f"{board.samples}\n")
    put(folder / "update_interval", f"{round(board.samples * 6.6)}\n")
    for k, name in enumerate(channels, start=1):
        volts = board.volts.get(name, 5.0)
        put(folder / f"in{k}_label", name + "\n")
        put(folder / f"in{k}_input", f"{volts * 1e3:.0f}\n")
        put(folder / f"curr{k}_input", f"{IDLE_W.get(name, 1.0) / volts * 1e3:.0f}\n")
        put(folder / f"curr{k}_max", "32760\n")
        put(folder / f"curr{k}_crit", "32760\n")
        put(folder / f"curr{k}_crit_alarm", "0\n")
        put(folder / f"shunt{k}_resistor", f"{board.shunt_uohm}\n")
    put(folder / "in7_label", "sum of shunt voltages\n")
    put(folder / "in7_input", "0\n")


def _thermal(board: FakeBoard, root: Path) -> None:
    base = root / "sys/class/thermal"
    old = board.kernel == "4.9"
    names = ("CPU-therm", "GPU-therm", "PMIC-Die") if old else ("cpu-thermal", "gpu-thermal", "cv0-thermal")
    for number, name in enumerate(names):
        put(base / f"thermal_zone{number}/type", name + "\n")
        put(base / f"thermal_zone{number}/temp", "-256000\n" if name == "cv0-thermal" else f"{45000 + 500 * number}\n")
    for number, kind in enumerate(("pwm-fan", "gpu-throttle-alert", "thermal-devfreq-0")):
        put(base / f"cooling_device{number}/type", kind + "\n")
        put(base / f"cooling_device{number}/cur_state", "0\n")
    if board.kernel != "4.9":
        oc = root / "sys/class/hwmon/hwmon9"
        put(oc / "name", "soctherm_oc\n")
        for number in (1, 2, 3):
            put(oc / f"oc{number}_event_cnt", "7\n")
        put(root / "sys/class/hwmon/hwmon8/name", "pwmfan\n")
        put(root / "sys/class/hwmon/hwmon8/pwm1", "128\n")
