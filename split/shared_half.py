"""The server's half of the model, which the turns of a round use one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cardlab.split.adapters import AdapterSet

if TYPE_CHECKING:
    from cardlab.split.halves import Half


class AdapterOwner(Protocol):
    """Whose adapters the half may hold: a turn's, or those that the turns of a round share."""

    adapters: AdapterSet
    active: bool

    @property
    def cut(self) -> int:
        """Layers on the device."""


class SharedHalf:
    """The server's half of the model; each user brings its own adapters and gets them back.

    Attributes:
        half: of the server.
    """

    def __init__(self, half: Half) -> None:
        self.half = half
        self._owner: AdapterOwner | None = None

    def hold(self, owner: AdapterOwner) -> None:
        """Let the half hold that one's cut and adapters; those of the one before go back to it."""
        if self._owner is owner:
            return
        self.give_back()
        self.half.set_cut(owner.cut)
        self.half.load(owner.adapters)
        self._owner = owner

    def give_back(self) -> None:
        """Give what the half holds back to its owner; moving the cut would lose the optimizer's state."""
        # What a lost turn trained is thrown away with it.
        if self._owner is not None and self._owner.active:
            self._owner.adapters.update(self.half.export())
        self._owner = None

    def forget(self) -> None:
        """Nobody owns what the half holds now."""
        self._owner = None
