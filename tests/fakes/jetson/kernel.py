"""Two kernels' ways with the limits of a devfreq device, behind the writer of a fake tree.

    4.9    min above max and max below min are refused; what is shown is what was stored
    5.10   nothing is refused: each write is a request, and what is shown is the range that results, max wins

Requests are kept in a file, so that the next process finds the kernel as the last one left it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from cardlab.core.errors import NotSupportedError
from cardlab.profilers.devices import helper
from tests.fakes.jetson.tree import show


class FakeKernel:
    """Writes settings as a kernel would take them.

    Attributes:
        clamp_hz: a thermal or firmware cap on top of all requests (5.10).
        log: (file name, value) of every write.
        on_write: is called after each write.
    """

    def __init__(self, root: Path, folder: Path, semantics: str) -> None:
        self.root = root
        self.folder = folder
        self.semantics = semantics
        self.clamp_hz: int | None = None
        self.log: list[tuple[str, str]] = []
        self._busy: bool | None = None
        self.on_write: Callable[[], None] | None = None
        self.table = [int(hz) for hz in (folder / "available_frequencies").read_text().split()]
        self._file = root / "kernel.json"
        if not self._file.exists():
            self._file.touch()
            self._keep({n: self.read(n) for n in ("min_freq", "max_freq")})

    def __call__(self, path: Path, value: str) -> None:
        """What the product's writer does, and what the kernel makes of it."""
        self.log.append((path.name, value))
        if path.parent.resolve() == self.folder.resolve() and path.name in ("min_freq", "max_freq"):
            if not path.exists():
                raise NotSupportedError(f"the kernel refuses {value!r} for {path}", remedy="none")
            self._limit(path.name, int(value))
        else:
            helper.run(["write", str(path.relative_to(self.root)), value], self.root)
            self._other(path)
        if self.on_write is not None:
            self.on_write()

    def read(self, name: str) -> int:
        return int((self.folder / name).read_text())

    def set_back(self) -> None:
        """What a restarted nvpmodel.service does."""
        self._keep({"min_freq": self.table[0], "max_freq": self.table[-1]})
        self._show(self.table[0], self.table[-1])

    def run_load(self, busy: bool) -> None:
        """The governor: highest allowed clock under load, lowest at rest."""
        if busy != self._busy and self.folder.exists():
            show(self.folder / "cur_freq", f"{self.read('max_freq' if busy else 'min_freq')}\n")
            self._busy = busy

    def _limit(self, name: str, hz: int) -> None:
        if self.semantics == "4.9":
            low, high = self.read("min_freq"), self.read("max_freq")
            if (name == "min_freq" and hz > high) or (name == "max_freq" and hz < low):
                raise NotSupportedError(f"the kernel refuses {hz} for {name} (Invalid argument)", remedy="none")
            clipped = max(hz, self.table[0]) if name == "min_freq" else min(hz, self.table[-1])
            self._show(**{**{"min_freq": low, "max_freq": high}, name: clipped})
            return
        requests = json.loads(self._file.read_text())
        requests[name] = hz
        self._keep(requests)
        high = self._rounded(min(requests["max_freq"], self.clamp_hz or self.table[-1]))
        low = min(self._rounded(requests["min_freq"]), high)
        self._show(low, high)

    def _rounded(self, hz: int) -> int:
        """Values that are not in the table round up to the next that is."""
        return next((listed for listed in self.table if listed >= hz), self.table[-1])

    def _show(self, min_freq: int, max_freq: int) -> None:
        show(self.folder / "min_freq", f"{min_freq}\n")
        show(self.folder / "max_freq", f"{max_freq}\n")
        show(self.folder / "cur_freq", f"{max_freq}\n")
        self._busy = None

    def _keep(self, requests: dict[str, int]) -> None:
        show(self._file, json.dumps(requests))

    def _other(self, path: Path) -> None:
        if path.name == "clk_update_rate":
            (path.parent / "clk_rate").write_text(path.read_text())
        if path.name == "scaling_min_freq":
            (path.parent / "scaling_cur_freq").write_text(path.read_text())
