"""Laws by quantity and name: `law_named("power", "ridge")`.

`law_named` also rebuilds a law that was bound to data, from the constants a Fit stores.
"""

from __future__ import annotations

from collections.abc import Mapping

from cardlab.core.errors import UsageError
from cardlab.core.laws.base import Law, Parameter, SeparableLaw
from cardlab.core.laws.curve import Kept, Multiple, Saturating
from cardlab.core.laws.latency import AffineInverse, ConstantLatency, Inverse
from cardlab.core.laws.measured import Measured
from cardlab.core.laws.power import (
    ConstantPower,
    Cubic,
    PowerLaw,
    PurePowerLaw,
    Ridge,
    StaticCubic,
    StaticLinearCubic,
)

LAWS: tuple[Law, ...] = (
    ConstantPower(),
    Cubic(),
    StaticCubic(),
    StaticLinearCubic(),
    PowerLaw(),
    PurePowerLaw(),
    Ridge(),
    ConstantLatency(),
    Inverse(),
    AffineInverse(),
    Saturating(),
    Kept(),
    Multiple(),
    Measured(),
)


def laws_of(quantity: str) -> tuple[Law, ...]:
    """All laws that may describe a quantity, in the order of LAWS."""
    return tuple(law for law in LAWS if quantity in law.quantities)


def law_named(quantity: str, name: str, constants: Mapping[str, tuple[float, ...]] | None = None) -> Law:
    """The law of that name for a quantity, with its constants set.

    Raises:
        UsageError: no law of this name describes the quantity; the remedy lists those that do.
    """
    for law in laws_of(quantity):
        if law.name == name:
            return _with_constants(law, constants or {})
    names = ", ".join(law.name for law in laws_of(quantity)) or "none"
    raise UsageError(f"no law {name!r} for {quantity}", remedy=f"use one of: {names}")


def _with_constants(law: Law, constants: Mapping[str, tuple[float, ...]]) -> Law:
    if isinstance(law, Ridge) and constants:
        return Ridge(constants["bottom_hz"][0], constants["top_hz"][0])
    if isinstance(law, Measured) and constants:
        return Measured(tuple(constants["knots"]))
    return law


__all__ = ["LAWS", "Law", "Parameter", "SeparableLaw", "law_named", "laws_of"]
