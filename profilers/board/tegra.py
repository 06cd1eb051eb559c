"""Which Jetson this is, from the device tree and the L4T release; /sys only shows that it is one.

NVML starts on an Orin and answers nothing of use, so Tegra is looked for first.
"""

import re
from pathlib import Path
from typing import NamedTuple, Optional

from .errors import BoardError
from .files import read_text
from .gpu import find_gpu
from .host import host_secret
from .modules import SOCS, Board, Soc, active_sm, find_board

DEVICE_TREE = "proc/device-tree"
RELEASE = "etc/nv_tegra_release"
# Engines hide /sys/firmware, where the device tree really is.
CONTAINER_FLAGS = (
    "-v /proc/device-tree:/proc/device-tree:ro -v /etc/nv_tegra_release:/etc/nv_tegra_release:ro"
    " -v /etc/machine-id:/etc/machine-id:ro (where the engine refuses the first: --security-opt systempaths=unconfined)"
)
# By L4T's major release: R34 and R35 are JetPack 5, R38 and R39 JetPack 7.
_JETPACK = {32: "4", 34: "5", 35: "5", 36: "6", 38: "7", 39: "7"}
_NVGPU = ("railgate_enable", "is_railgated", "tpc_pg_mask", "gpu_powered_on")
_RELEASE = re.compile(r"R(\d+)\s*\(release\)\s*,\s*REVISION:\s*([\d.]+)")


class Tegra(NamedTuple):
    """What the system says of itself.

    Attributes:
        model: the device tree's text, None without one.
        part: part number of the module, None if unknown.
        board, soc: what is known of them, None for unknown ones.
        l4t: release, e.g. "36.4.3"; None where the file is absent (containers).
        super_mode: the device tree is one of a "Super" configuration.
        masked: there is no device tree to be read, as in a container that was started without it.
    """

    model: Optional[str]
    part: Optional[str]
    board: Optional[Board]
    soc: Optional[Soc]
    l4t: Optional[str]
    super_mode: bool
    masked: bool = False

    @property
    def jetpack(self) -> Optional[str]:
        """Major version of JetPack, None if unknown."""
        return None if self.l4t is None else _JETPACK.get(int(self.l4t.split(".")[0]))

    def cores_active(self, tpc_mask: Optional[int]) -> Optional[int]:
        """CUDA cores that a mask of gated TPCs leaves running; None for an unknown Tegra."""
        if self.soc is None:
            return None
        running = active_sm(self.soc, None if self.board is None else self.board.sm_max, tpc_mask)
        return None if running is None else running * self.soc.cores_per_sm


def find_tegra(root: Path) -> Optional[Tegra]:
    """The Tegra below this root, None on any other machine."""
    compatible = tuple(filter(None, (read_text(root / DEVICE_TREE / "compatible") or "").split("\0")))
    l4t = l4t_release(read_text(root / RELEASE))
    # Containers often lack the release, the device tree, or both, so any is enough.
    if l4t is None and not any("nvidia,tegra" in text for text in compatible) and not _kernel_of_tegra(root):
        return None
    part, board = find_board(compatible)
    soc = board.soc if board is not None else next((SOCS[t] for t in compatible if t in SOCS), None)
    model = read_text(root / DEVICE_TREE / "model") or None
    words = " ".join((model or "", *compatible)).lower()
    return Tegra(
        model=model,
        part=part,
        board=board,
        soc=soc,
        l4t=l4t,
        super_mode=bool(re.search(r"\bsuper\b", words.replace("-", " "))),
        masked=not compatible,
    )


def refuse_nameless(tegra: Tegra, root: Path) -> None:
    """Raise BoardError for a board of which nothing here tells the identity.

    Any other key would be a new one in each container, and the profiles of one board would never meet.
    """
    if tegra.masked and host_secret(root) is None:
        raise BoardError(
            "a Jetson in a container: its device tree is hidden, so neither the module nor its identity is known",
            remedy="start it with %s" % CONTAINER_FLAGS,
        )


def _kernel_of_tegra(root: Path) -> bool:
    """Whether /sys alone shows a Tegra: what its kernel calls the chip, or a GPU that only nvgpu drives."""
    if read_text(root / "sys/devices/soc0/family") == "Tegra":
        return True
    # "gpu" alone is what other boards call theirs; these files are of NVIDIA's driver.
    gpu = find_gpu(root)
    return gpu is not None and any((gpu.folder / "device" / name).exists() for name in _NVGPU)


def l4t_release(text: Optional[str]) -> Optional[str]:
    """Release from the first line of nv_tegra_release; None if it says nothing of the kind."""
    match = _RELEASE.search(text or "")
    return None if match is None else f"{match[1]}.{match[2]}".rstrip(".")
