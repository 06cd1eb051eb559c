"""What a board says of itself below a root folder: identity, frequencies, temperatures, power rails.

Everything is discovered by the readers of ../board, as cardlab itself does it; a value that is not there is None. Only
the GPU's devfreq limits are ever written.
"""

import json
import os
import platform
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

from ..board.cpufreq import find_cpu
from ..board.emc import find_emc
from ..board.errors import BoardError
from ..board.files import read_text, write_text
from ..board.gpu import Gpu, find_gpu
from ..board.host import cpu_cores, cpu_model, memory_bytes
from ..board.identity import host_key, state_folder
from ..board.ina3221 import InaRail, find_rails
from ..board.limits import find_watch
from ..board.modes import current_mode, gated_tpcs, offered_hz
from ..board.modules import cores_of
from ..board.rails import total_name, total_parts
from ..board.tegra import find_tegra, refuse_nameless
from .bundle import Row


class Board:
    """A board or plain host below `root`.

    Attributes:
        tegra: which Jetson it is, None for any other machine.
        gpu: its GPU's node, None without one.
        mode: the power mode that is on, None if unknown.
        watch: signs that the hardware held the board back.
        rails: channels of power monitors that answer.
    """

    def __init__(self, root: str = "/", state: Optional[str] = None) -> None:
        self.root = Path(root)
        self.state = Path(state) if state else state_folder()
        self.tegra = find_tegra(self.root)
        self.gpu: Optional[Gpu] = find_gpu(self.root)
        self.mode = current_mode(self.root)
        self.watch = find_watch(self.root)
        self.cpu = find_cpu(self.root)
        self.emc = find_emc(self.root)
        # A channel without a load answers every read with ENODATA and would leave each sum without a value.
        self.rails: List[InaRail] = [rail for rail in find_rails(self.root) if rail.power_w() is not None]

    # identity ---------------------------------------------------------------------------------------------

    def model(self) -> Optional[str]:
        """What the device tree, else the kernel's list of CPUs, calls it."""
        named = None if self.tegra is None else self.tegra.model
        return named or read_text(self.root / "proc/device-tree/model") or cpu_model(self.root)

    def available_bytes(self) -> Optional[int]:
        """Memory that is free for a model now."""
        return memory_bytes(self.root)[1]

    def cores(self, kind: str, cuda: Optional[Row]) -> Optional[int]:
        """CUDA cores of a Jetson, from its part number or from what torch says of the GPU; else physical CPU cores."""
        if kind == "jetson" and self.tegra is not None and self.tegra.board is not None:
            return self.tegra.board.cores
        if cuda is None:
            return cpu_cores(self.root) if kind == "cpu" else None
        major, minor = cuda["capability"]
        return cores_of((major, minor), int(cuda["sm_count"]))

    def device(self, kind: str, label: Optional[str], cuda: Optional[Row]) -> Row:
        """The device record; `cuda` holds what torch says of the GPU, None on a CPU."""
        table_hz = self.table_hz() if kind == "jetson" else ()
        if kind == "jetson" and self.tegra is not None:
            refuse_nameless(self.tegra, self.root)
        return {
            "key": host_key(kind, self.root, self.state).key,
            "name": label or platform.node() or "board",
            "platform": kind,
            "model": self.model(),
            "cores": self.cores(kind, cuda),
            "frequency_min_hz": float(table_hz[0]) if table_hz else None,
            "frequency_max_hz": float(table_hz[-1]) if table_hz else None,
            "memory_bytes": memory_bytes(self.root)[0],
            "details": {"agent": True, "machine": platform.machine(), "cuda": cuda, "l4t": self.l4t()},
        }

    def l4t(self) -> Optional[str]:
        """L4T release as "36.4.3"; None off a Jetson."""
        return None if self.tegra is None else self.tegra.l4t

    # frequencies ------------------------------------------------------------------------------------------

    def table_hz(self) -> Tuple[int, ...]:
        """The GPU's whole table, ascending; empty without a GPU's devfreq node."""
        return () if self.gpu is None else self.gpu.table_hz

    def frequencies(self) -> Tuple[float, ...]:
        """GPU frequencies on offer in Hz, ascending, up to the power mode's cap; empty where they cannot be set."""
        return offered_hz(self.table_hz(), self.mode) if self.frequency_writable() else ()

    def frequency_writable(self) -> bool:
        """Whether this user may set the GPU's frequency."""
        return self.gpu is not None and os.access(str(self.gpu.folder / "max_freq"), os.W_OK)

    def lock(self, frequency_hz: float) -> None:
        """Hold the GPU at that frequency. Raises BoardError.

        What was found is written down before the first write.
        """
        gpu = self._lockable()
        self._journal(gpu)
        self._set(gpu, gpu.lock_steps(round(frequency_hz)))
        # From kernel 5.10 on a wrong write is no error: a limit that reads otherwise is the only sign of it.
        if not self.holds(frequency_hz):
            raise BoardError(
                "the GPU did not take %.0f MHz" % (frequency_hz / 1e6),
                remedy="look at the power mode's cap (nvpmodel -q)",
            )

    def holds(self, frequency_hz: float) -> bool:
        """Whether both limits still are at that frequency (a service may have undone them)."""
        return self._lockable().holds(frequency_hz)

    def _lockable(self) -> Gpu:
        if self.gpu is None:
            raise BoardError("the GPU's devfreq node is gone", remedy="a reboot releases the frequency")
        return self.gpu

    def _set(self, gpu: Gpu, steps: Sequence[Tuple[str, int]]) -> None:
        for name, hz in steps:
            try:
                write_text(gpu.folder / name, str(hz))
            except OSError as error:
                raise BoardError(
                    "the GPU's %s cannot be set (%s)" % (name, error.strerror), remedy="run as root, or with --readonly"
                )

    @property
    def journal(self) -> Path:
        """File that holds the limits found before the first lock."""
        return self.state / "agent-clocks.json"

    def _journal(self, gpu: Gpu) -> None:
        # The older journal has the true values: what reads now may be a lock that a killed run left.
        if self.journal.exists():
            return
        found = gpu.limits_hz()
        if found is None:
            raise BoardError("the GPU's limits cannot be read", remedy="look for nvgpu in dmesg, then reboot")
        self.state.mkdir(parents=True, exist_ok=True)
        draft = str(self.journal) + ".part"
        with open(draft, "w") as file:
            json.dump({"min_freq": found[0], "max_freq": found[1]}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, str(self.journal))

    def restore(self) -> bool:
        """Put back the limits found before the first lock; False if nothing was locked."""
        text = read_text(self.journal)
        if text is None:
            return False
        found, gpu = json.loads(text), self._lockable()
        self._set(gpu, gpu.restore_steps(found["min_freq"], found["max_freq"]))
        os.remove(str(self.journal))
        return True

    # state and power --------------------------------------------------------------------------------------

    def gpu_hz(self) -> Optional[float]:
        """GPU frequency now."""
        return None if self.gpu is None else self.gpu.frequency_hz()

    def memory_hz(self) -> Optional[float]:
        """Memory (EMC) frequency now; only root may read it."""
        return None if self.emc is None else self.emc.rate_hz()

    def power_mode(self) -> Optional[str]:
        """Name of the power mode as nvpmodel's configuration has it."""
        return None if self.mode is None else self.mode.name

    def cores_active(self) -> Optional[int]:
        """CUDA cores that the power mode leaves running."""
        mask = gated_tpcs(None if self.gpu is None else self.gpu.tpc_mask(), self.mode)
        return None if self.tegra is None else self.tegra.cores_active(mask)

    def temperature_c(self) -> Optional[float]:
        """Temperature of the GPU's zone, else of the hottest junction."""
        return self.watch.temperature_c()

    def total(self) -> Tuple[str, Tuple[str, ...]]:
        """Name of the total and the rails that make it; empty where there is none or these rails have no known sum."""
        members = total_parts([rail.name for rail in self.rails])
        return total_name(members), members
