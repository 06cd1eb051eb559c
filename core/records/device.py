"""What was measured on: the device and its software environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cardlab.core.identity import content_hash, since


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device as it described itself when a run began.

    The key identifies the hardware, the name is only a label. A renamed board gives a new record
    with the same key; the newest one supplies the label.

    Attributes:
        key: identity prefixed by platform (see cardlab.core.identity).
        name: label chosen by a person or taken from the host.
        platform: "cpu", "nvidia", "jetson", "simulated" or "imported".
        model: what the vendor calls it, None if unknown.
        cores: arithmetic cores (CUDA cores on a GPU, physical or logical cores on a CPU).
        frequency_min_hz, frequency_max_hz: range that the frequency control offers, None without one.
        memory_bytes: physical memory that a model may use.
        power_limit_w: the most it may draw, None where nothing says.
        driver: version of the driver, None without one.
        details: further facts by name, plain JSON values (SM count, L4T release...); for people only.
    """

    key: str
    name: str
    platform: str
    model: str | None = None
    cores: int | None = None
    frequency_min_hz: float | None = None
    frequency_max_hz: float | None = None
    memory_bytes: int | None = None
    power_limit_w: float | None = since("0.2", None)
    driver: str | None = since("0.2", None)
    details: Mapping[str, object] = field(default_factory=dict)

    @property
    def uid(self) -> str:
        """Identity of this description (not of the hardware: that is `key`)."""
        return content_hash(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Versions of everything that is not part of the execution, by name."""

    versions: Mapping[str, str]

    @property
    def uid(self) -> str:
        """Content identity."""
        return content_hash(self)
