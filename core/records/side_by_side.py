"""Delay and energy of a planned round beside what other frequencies would have made of the same cuts.

Three settings: the frequencies that the hardware's governors chose when nobody held one, the highest that are kept, and
those of the plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cardlab.core.quantity import Provenance
from cardlab.core.tables import Cell, Tabular

GOVERNOR, HIGHEST, PLANNED = "governor's default", "highest", "planned"
SETTINGS = (GOVERNOR, HIGHEST, PLANNED)
ALL_DEVICES = "all devices"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """Why a number is not known, and what helps."""

    reason: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One device's round, or that of all devices, at one setting; None where it is not known.

    Attributes:
        setting: one of SETTINGS.
        device: its label; None for all devices together, whose rounds follow each other.
        server_frequency_hz, device_frequency_hz: None also for all devices together.
        tokens: that are trained on in the round: batch x sequence x local epochs, of each device.
        delay_s: of the round.
        server_energy_j, device_energy_j: counted as the plan counts them.
        lacks: why what is None is not known.
    """

    setting: str
    device: str | None
    server_frequency_hz: float | None = None
    device_frequency_hz: float | None = None
    tokens: int
    delay_s: float | None
    server_energy_j: float | None
    device_energy_j: float | None
    lacks: tuple[Lack, ...] = ()
    provenance: Provenance

    @property
    def label(self) -> str:
        """Whose round it is."""
        return ALL_DEVICES if self.device is None else self.device

    @property
    def server_j_per_token(self) -> float | None:
        """Energy of the server for each token of the round, J."""
        return None if self.server_energy_j is None else self.server_energy_j / self.tokens

    @property
    def device_j_per_token(self) -> float | None:
        """Energy of the device, or of all devices, for each token of the round, J."""
        return None if self.device_energy_j is None else self.device_energy_j / self.tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class SideBySide(Tabular):
    """The first round of a plan at every setting, its cuts as planned.

    Attributes:
        settings: each device at each setting, then all devices where there are several.
        notes: what was assumed, and where the numbers of the governor's default are from.
    """

    settings: tuple[Setting, ...]
    notes: tuple[str, ...] = ()

    def of(self, setting: str, device: str | None = None) -> Setting:
        """One device at a setting, or all together. Raises KeyError where there is none."""
        alone = device is None and len({s.device for s in self.settings}) == 1
        found = [s for s in self.settings if s.setting == setting and (alone or s.device == device)]
        if not found:
            raise KeyError((setting, device))
        return found[0]

    @property
    def lacks(self) -> tuple[Lack, ...]:
        """Everything that is not known, each once."""
        return tuple(dict.fromkeys(lack for s in self.settings for lack in s.lacks))

    def rows(self) -> list[dict[str, Cell]]:
        """A row a device and setting: frequencies (Hz), delay (s), energies (J a round and J a token)."""
        return [
            {
                "device": s.label,
                "setting": s.setting,
                "server_frequency_hz": s.server_frequency_hz,
                "device_frequency_hz": s.device_frequency_hz,
                "tokens": s.tokens,
                "delay_s": s.delay_s,
                "server_energy_j": s.server_energy_j,
                "server_j_per_token": s.server_j_per_token,
                "device_energy_j": s.device_energy_j,
                "device_j_per_token": s.device_j_per_token,
                "not_known": "; ".join(lack.reason for lack in s.lacks) or None,
            }
            for s in self.settings
        ]


def together(each: Sequence[Setting], provenance: Provenance) -> Setting:
    """All devices at one setting, one after another; a sum is None if one part of it is."""
    return Setting(
        setting=each[0].setting,
        device=None,
        tokens=sum(s.tokens for s in each),
        delay_s=_sum([s.delay_s for s in each]),
        server_energy_j=_sum([s.server_energy_j for s in each]),
        device_energy_j=_sum([s.device_energy_j for s in each]),
        lacks=tuple(dict.fromkeys(lack for s in each for lack in s.lacks)),
        provenance=provenance,
    )


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
