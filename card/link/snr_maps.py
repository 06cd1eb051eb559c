"""From SNR to CQI: named mappings, because the standard has none.

TS 38.214 only asks that the block error rate stay below 0.1. Published thresholds differ by 5 to 10 dB
between sources, so a plan names the mapping it used. Rule: the highest CQI whose threshold is not above
the SNR; below that of CQI 1 the answer is 0, no link. Thresholds in dB.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from cardlab.card.link.nr_tables import CQI
from cardlab.core.errors import PlanError
from cardlab.core.numerals import decimal

DEFAULT = "customary-lte"


@dataclass(frozen=True, slots=True, kw_only=True)
class SnrMap:
    """Thresholds of CQI `first`..`first`+n-1 of one CQI table, with where they come from."""

    name: str
    table: int
    first: int
    thresholds_db: tuple[float, ...]
    source: str

    def cqi(self, snr_db: float) -> int:
        """CQI at that SNR; 0 below the lowest threshold."""
        reached = bisect_right(self.thresholds_db, snr_db)
        return 0 if reached == 0 else self.first + reached - 1


_NAMED = (
    SnrMap(
        name="customary-lte",
        table=1,
        first=1,
        thresholds_db=(-6.7, -4.7, -2.3, 0.2, 2.4, 4.3, 5.9, 8.1, 10.3, 11.7, 14.1, 16.3, 18.7, 21.0, 22.7),
        source="customary since LTE in simulators; no primary document is known",
    ),
    SnrMap(
        name="mathworks-siso-fading",
        table=1,
        first=1,
        thresholds_db=(
            -1.89,
            -0.82,
            0.95,
            2.95,
            4.90,
            7.39,
            8.89,
            11.02,
            13.32,
            14.68,
            16.62,
            18.91,
            21.58,
            24.88,
            29.32,
        ),
        source="AIMM simulator, citing MathWorks 5G NR CQI Reporting: SISO, CDL-C 300 ns",
    ),
    SnrMap(
        name="awgn-sionna",
        table=1,
        first=4,
        thresholds_db=(-1.51, 0.51, 2.34, 4.15, 6.10, 7.96, 9.74, 11.70, 13.63, 15.61, 17.63, 19.25),
        source="Sionna block error tables at 0.1, median over block sizes; CQI 1..3 are not covered",
    ),
    SnrMap(
        name="lena-eesm",
        table=1,
        first=2,
        thresholds_db=(
            -1.04,
            0.45,
            2.01,
            3.56,
            4.95,
            6.97,
            8.59,
            10.49,
            12.31,
            14.29,
            16.09,
            18.13,
            20.18,
            24.05,
        ),
        source="5G-LENA EESM curves at 0.1, median",
    ),
    SnrMap(
        name="kawser-2012",
        table=1,
        first=1,
        thresholds_db=(
            1.95,
            4.0,
            6.0,
            8.0,
            10.0,
            11.95,
            14.05,
            16.0,
            17.9,
            19.9,
            21.5,
            23.45,
            25.0,
            27.3,
            29.0,
        ),
        source="Kawser et al. 2012, Table III, LTE; copies differ in four rows",
    ),
    SnrMap(
        name="awgn-sionna-256qam",
        table=2,
        first=3,
        thresholds_db=(0.33, 4.22, 6.14, 8.06, 9.75, 11.75, 13.90, 15.67, 17.68, 19.07, 21.15, 23.34),
        source="Sionna PDSCH table 2 at 0.1; CQI 1, 2 and 15 are not covered",
    ),
)
MAPS = {m.name: m for m in _NAMED}


def snr_map(name: str = DEFAULT) -> SnrMap:
    """The mapping of that name; "shannon-gap:<dB>" is capacity less a gap, on CQI table 1.

    Raises PlanError listing the names.
    """
    if name in MAPS:
        return MAPS[name]
    kind, _, gap = name.partition(":")
    if kind == "shannon-gap":
        try:
            gap_db = decimal(gap)
        except ValueError:
            gap_db = math.nan
        if math.isfinite(gap_db) and gap_db >= 0:
            # C = log2(1 + SNR / gap), solved for the SNR at which each efficiency is reached.
            thresholds = tuple(10.0 * math.log10(2.0**row.efficiency - 1.0) + gap_db for row in CQI[1])
            return SnrMap(
                name=name,
                table=1,
                first=1,
                thresholds_db=thresholds,
                source=f"Shannon bound and {gap_db:g} dB",
            )
    known = ", ".join((*MAPS, "shannon-gap:<dB>"))
    raise PlanError(f"there is no SNR mapping {name!r}", remedy=f"choose one of: {known}")
