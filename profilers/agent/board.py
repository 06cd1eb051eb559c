"""What a board says of itself below a root folder: identity, frequencies, temperatures, power rails.

Everything is discovered by the readers of ../board, as cardlab itself does it; a value that is not there is None. Only
the GPU's devfreq limits are ever written.
"""

import json
import os
import platform
from glob import glob
from pathlib import Path
from typing import List, Optional, Tuple

from ..board.files import read_leading, read_number, read_text
from ..board.host import cpu_cores, cpu_model, host_secret, memory_bytes
from ..board.ina3221 import InaRail, find_rails
from ..board.limits import find_watch
from ..board.modes import current_mode, offered_hz
from ..board.rails import total_name, total_parts
from ..board.rules import is_gpu_node, on_request
from ..board.tegra import find_tegra
from .bundle import Row, new_uid, serial_key

# By compute capability: Tegra X1, X2, Xavier, Orin.
CUDA_CORES_PER_SM = {(5, 3): 128, (6, 2): 128, (7, 2): 64, (8, 7): 128}


class BoardError(Exception):
    """Something about the board that stops the run; the message says what to do."""


def read(path: str) -> Optional[str]:
    """Text of a small kernel file without NUL and space; None if it cannot be read."""
    return read_text(Path(path))


def number(path: str) -> Optional[float]:
    """A kernel file that holds one number; None if it holds none or is off (EAGAIN, ENODATA)."""
    return read_leading(Path(path))


class Board:
    """A board or plain host below `root`.

    Attributes:
        tegra: which Jetson it is, None for any other machine.
        mode: the power mode that is on, None if unknown.
        watch: signs that the hardware held the board back.
        rails: channels of power monitors that answer.
    """

    def __init__(self, root: str = "/", state: Optional[str] = None) -> None:
        self.root, self.place = root, Path(root)
        self.state = state or os.path.join(
            os.path.expanduser(os.environ.get("XDG_STATE_HOME") or "~/.local/state"), "cardlab"
        )
        self.tegra = find_tegra(self.place)
        self.mode = current_mode(self.place)
        self.watch = find_watch(self.place)
        self.gpu = self._find_gpu()
        # A channel without a load answers every read with ENODATA and would leave each sum without a value.
        self.rails: List[InaRail] = [rail for rail in find_rails(self.place) if rail.power_w() is not None]

    def path(self, *parts: str) -> str:
        """A path below the root."""
        return os.path.join(self.root, *parts)

    # identity ---------------------------------------------------------------------------------------------

    def key(self, kind: str) -> str:
        """The device key as cardlab itself would make it on this host."""
        found = host_secret(self.place)
        return serial_key(kind, self._own_key() if found is None else found[0])

    def _own_key(self) -> str:
        file = os.path.join(self.state, "device-key")
        known = read(file)
        if known:
            return known
        try:
            os.makedirs(self.state, exist_ok=True)
            with open(file, "w") as out:
                out.write(new_uid() + "\n")
        except OSError as error:
            raise BoardError("no identity can be kept in %s (%s): set XDG_STATE_HOME" % (self.state, error.strerror))
        return read(file) or ""

    def model(self) -> Optional[str]:
        """What the device tree, else the kernel's list of CPUs, calls it."""
        named = None if self.tegra is None else self.tegra.model
        return named or read(self.path("proc/device-tree/model")) or cpu_model(self.place)

    def available_bytes(self) -> Optional[int]:
        """Memory that is free for a model now."""
        return memory_bytes(self.place)[1]

    def cores(self, kind: str, cuda: Optional[Row]) -> Optional[int]:
        """CUDA cores of a Jetson, from its part number or from what torch says of the GPU; else physical CPU cores."""
        if kind == "jetson" and self.tegra is not None and self.tegra.board is not None:
            return self.tegra.board.cores
        if cuda is None:
            return cpu_cores(self.place) if kind == "cpu" else None
        per_sm = CUDA_CORES_PER_SM.get(tuple(cuda["capability"]))
        return None if per_sm is None else per_sm * int(cuda["sm_count"])

    def device(self, kind: str, label: Optional[str], cuda: Optional[Row]) -> Row:
        """The device record; `cuda` holds what torch says of the GPU, None on a CPU."""
        table_hz = self.table_hz() if kind == "jetson" else ()
        return {
            "key": self.key(kind),
            "name": label or platform.node() or "board",
            "platform": kind,
            "model": self.model(),
            "cores": self.cores(kind, cuda),
            "frequency_min_hz": float(table_hz[0]) if table_hz else None,
            "frequency_max_hz": float(table_hz[-1]) if table_hz else None,
            "memory_bytes": memory_bytes(self.place)[0],
            "details": {"agent": True, "machine": platform.machine(), "cuda": cuda, "l4t": self.l4t()},
        }

    def l4t(self) -> Optional[str]:
        """L4T release as "36.4.3"; None off a Jetson."""
        return None if self.tegra is None else self.tegra.l4t

    # frequencies ------------------------------------------------------------------------------------------

    def _find_gpu(self) -> Optional[str]:
        for node in sorted(glob(self.path("sys/class/devfreq/*"))):
            # Where the kernel has no of_node, the folder's own name ends in the GPU's: 57000000.gpu,
            # 17000000.gv11b.
            name = read(os.path.join(node, "device/of_node/name")) or os.path.basename(node).split(".")[-1]
            if is_gpu_node(name):
                return node
        return None

    def table_hz(self) -> Tuple[int, ...]:
        """The GPU's whole table, ascending; empty without a GPU's devfreq node."""
        text = read(os.path.join(self.gpu, "available_frequencies")) if self.gpu else None
        return tuple(sorted(int(word) for word in (text or "").split() if word.isdigit()))

    def frequencies(self) -> Tuple[float, ...]:
        """GPU frequencies on offer in Hz, ascending, up to the power mode's cap; empty where they cannot be set."""
        return offered_hz(self.table_hz(), self.mode) if self.frequency_writable() else ()

    def frequency_writable(self) -> bool:
        """Whether this user may set the GPU's frequency."""
        return self.gpu is not None and os.access(os.path.join(self.gpu, "max_freq"), os.W_OK)

    def lock(self, frequency_hz: float) -> None:
        """Hold the GPU at that frequency: min to the lowest, max to f, min to f. Raises BoardError.

        This order is the only one right on both kernels: 4.9 refuses min > max, later ones run at a wrong
        frequency in silence. What was found is written down before the first write.
        """
        assert self.gpu is not None
        self._journal()
        lowest = self.table_hz()[0]
        # The lowest of the table is allowed at any time, so the first write cannot cross the maximum that was
        # found.
        for name, value in (("min_freq", lowest), ("max_freq", frequency_hz), ("min_freq", frequency_hz)):
            self._write(name, value)
        # From kernel 5.10 on a wrong write is no error: a limit that reads otherwise is the only sign of it.
        if not self.holds(frequency_hz):
            raise BoardError(
                "the GPU did not take %.0f MHz: look at the power mode's cap (nvpmodel -q)" % (frequency_hz / 1e6)
            )

    def holds(self, frequency_hz: float) -> bool:
        """Whether both limits still are at that frequency (a service may have undone them)."""
        assert self.gpu is not None
        limits = [number(os.path.join(self.gpu, name)) for name in ("min_freq", "max_freq")]
        return all(limit is not None and on_request(limit, frequency_hz) for limit in limits)

    def _write(self, name: str, value: float) -> None:
        assert self.gpu is not None
        try:
            with open(os.path.join(self.gpu, name), "w") as file:
                file.write("%d\n" % value)
        except OSError as error:
            reason = (name, error.strerror)
            raise BoardError("the GPU's %s cannot be set (%s): run as root, or with --readonly" % reason)

    @property
    def journal(self) -> str:
        """File that holds the limits found before the first lock."""
        return os.path.join(self.state, "agent-clocks.json")

    def _journal(self) -> None:
        # The older journal has the true values: what reads now may be a lock that a killed run left.
        if os.path.exists(self.journal):
            return
        assert self.gpu is not None
        found = {name: number(os.path.join(self.gpu, name)) for name in ("min_freq", "max_freq")}
        os.makedirs(self.state, exist_ok=True)
        with open(self.journal + ".part", "w") as file:
            json.dump(found, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(self.journal + ".part", self.journal)

    def restore(self) -> bool:
        """Put back the limits found before the first lock; False if nothing was locked."""
        text = read(self.journal)
        if text is None:
            return False
        found = json.loads(text)
        if self.gpu is None:
            raise BoardError("the GPU's devfreq node is gone: a reboot releases the frequency")
        # In the order of lock(), so that at no moment the minimum lies above the maximum.
        self._write("min_freq", self.table_hz()[0])
        self._write("max_freq", found["max_freq"])
        self._write("min_freq", found["min_freq"])
        os.remove(self.journal)
        return True

    # state and power --------------------------------------------------------------------------------------

    def gpu_hz(self) -> Optional[float]:
        """GPU frequency now."""
        return number(os.path.join(self.gpu, "cur_freq")) if self.gpu else None

    def cpu_hz(self) -> Optional[float]:
        """Frequency of the first CPU now."""
        # cpufreq counts in kHz, devfreq in Hz.
        khz = number(self.path("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"))
        return None if khz is None else khz * 1e3

    def memory_hz(self) -> Optional[float]:
        """Memory (EMC) frequency now; only root may read it."""
        return number(self.path("sys/kernel/debug/bpmp/debug/clk/emc/rate"))

    def power_mode(self) -> Optional[str]:
        """Name of the power mode as nvpmodel's configuration has it."""
        return None if self.mode is None else self.mode.name

    def cores_active(self) -> Optional[int]:
        """CUDA cores that the power mode leaves running."""
        # What is gated now comes first: a mode that gates other TPCs takes effect at the next boot only.
        mask = read_number(Path(self.gpu) / "device" / "tpc_pg_mask") if self.gpu else None
        if mask is None and self.mode is not None:
            mask = self.mode.tpc_mask
        return None if self.tegra is None else self.tegra.cores_active(mask)

    def temperature_c(self) -> Optional[float]:
        """Temperature of the GPU's zone, else of the hottest junction."""
        return self.watch.temperature_c()

    def total(self) -> Tuple[str, Tuple[str, ...]]:
        """Name of the total and the rails that make it; empty where there is none or these rails have no known sum."""
        members = total_parts([rail.name for rail in self.rails])
        return total_name(members), members
