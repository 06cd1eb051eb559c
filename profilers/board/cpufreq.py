"""The CPU's frequency as the kernel shows it: one policy per group of cores that share a clock."""

import re
from pathlib import Path
from typing import Iterable, NamedTuple, Optional, Tuple

from .files import read_number
from .power import mean_known

CPUS = "sys/devices/system/cpu"


class CpuFiles(NamedTuple):
    """Where a CPU's frequency is read.

    Attributes:
        cores: files of the real frequency, which only root may read.
        policies: folders of cpufreq, in the order of their numbers.
    """

    cores: Tuple[Path, ...]
    policies: Tuple[Path, ...]

    def asked_hz(self) -> Optional[float]:
        """Mean over the policies of the frequency that is asked for, None if none is published."""
        return _mean_hz(policy / "scaling_cur_freq" for policy in self.policies)

    def real_hz(self) -> Optional[float]:
        """Mean over the cores of what runs, where it may be read; else what is asked for."""
        # scaling_cur_freq does not show the halved clock of an over-current event.
        real_hz = _mean_hz(self.cores)
        return self.asked_hz() if real_hz is None else real_hz


def find_cpu(root: Path) -> CpuFiles:
    """The CPU's files below a root; whatever is absent is left out."""
    policies = (folder for folder in (root / CPUS / "cpufreq").glob("policy*"))
    numbered = [folder for folder in policies if re.fullmatch(r"policy\d+", folder.name)]
    return CpuFiles(
        cores=tuple(sorted((root / CPUS).glob("cpu[0-9]*/cpufreq/cpuinfo_cur_freq"))),
        policies=tuple(sorted(numbered, key=lambda folder: int(folder.name[6:]))),
    )


def _mean_hz(files: Iterable[Path]) -> Optional[float]:
    # cpufreq counts in kHz, devfreq in Hz.
    khz = mean_known(map(read_number, files))
    return None if khz is None else khz * 1e3
