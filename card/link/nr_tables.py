"""CQI and MCS tables of 3GPP TS 38.214: 5.2.2.1-2 and -3, 5.1.3.1-1 and -2.

The standard prints the code rate R x 1024; the spectral efficiency is Qm R / 1024 bit/s/Hz, computed
here from the printed R because the printed efficiencies are rounded half up. MCS tables are not
monotone: in table 1, index 16 (2.5703) lies above 17 (2.5664), so no binary search over them.
"""

from __future__ import annotations

from dataclasses import dataclass

from cardlab.core.errors import PlanError


@dataclass(frozen=True, slots=True)
class Coding:
    """One row: bits per symbol Qm and the printed code rate R x 1024."""

    index: int
    bits_per_symbol: int
    rate_1024: float

    @property
    def efficiency(self) -> float:
        """Spectral efficiency, bit/s/Hz."""
        return self.bits_per_symbol * self.rate_1024 / 1024.0


def _rows(first: int, *groups: tuple[int, tuple[float, ...]]) -> tuple[Coding, ...]:
    flat = [(bits, rate) for bits, rates in groups for rate in rates]
    return tuple(Coding(first + i, bits, rate) for i, (bits, rate) in enumerate(flat))


CQI = {
    1: _rows(
        1,
        (2, (78, 120, 193, 308, 449, 602)),
        (4, (378, 490, 616)),
        (6, (466, 567, 666, 772, 873, 948)),
    ),
    2: _rows(
        1,
        (2, (78, 193, 449)),
        (4, (378, 490, 616)),
        (6, (466, 567, 666, 772, 873)),
        (8, (711, 797, 885, 948)),
    ),
}
MCS = {
    1: _rows(
        0,
        (2, (120, 157, 193, 251, 308, 379, 449, 526, 602, 679)),
        (4, (340, 378, 434, 490, 553, 616, 658)),
        (6, (438, 466, 517, 567, 616, 666, 719, 772, 822, 873, 910, 948)),
    ),
    2: _rows(
        0,
        (2, (120, 193, 308, 449, 602)),
        (4, (378, 434, 490, 553, 616, 658)),
        (6, (466, 517, 567, 616, 666, 719, 772, 822, 873)),
        (8, (682.5, 711, 754, 797, 841, 885, 916.5, 948)),
    ),
}


def coding_of_cqi(cqi: int, table: int = 1) -> Coding:
    """The row of a CQI index 1..15. CQI 0 is out of range: PlanError, there is no link."""
    if cqi == 0:
        raise PlanError("CQI 0 is out of range: there is no link", remedy="raise the SNR")
    if table not in CQI or not 1 <= cqi <= 15:
        raise PlanError(f"there is no CQI {cqi} in table {table}", remedy="use 1..15 of table 1 or 2")
    return CQI[table][cqi - 1]


def mcs_of_cqi(cqi: int, table: int = 1) -> Coding:
    """The MCS of highest efficiency not above that of the CQI; CQI 1 lies below MCS 0 and takes it."""
    # A hair of room: equal efficiencies are computed from different rows of the tables.
    limit = coding_of_cqi(cqi, table).efficiency * (1.0 + 1e-9)
    fitting = [row for row in MCS[table] if row.efficiency <= limit]
    return max(fitting, key=lambda row: row.efficiency) if fitting else MCS[table][0]
