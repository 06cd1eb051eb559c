"""A radio channel: transmit power, path loss, noise and fading to SNR, CQI and a rate, drawn per round.

    SNR = P_tx - path loss - (N0 + 10 log10 bandwidth) + fading            dB
    R   = efficiency(CQI(SNR)) x bandwidth x protocol efficiency           bit/s

Fading is drawn once per device, round and direction: Rayleigh, an exponential power gain of mean 1, or
none. A drawn CQI 0 is an outage: it is drawn again up to 20 times (the round waits for a link), and
without fading it is an error. Channel states Good, Normal, Poor are noise densities of -166, -163 and
-160 dBm/Hz (CARD, Table II); uplink and downlink have their own power.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cardlab.card.link.nr_tables import mcs_of_cqi
from cardlab.card.link.snr_maps import SnrMap, snr_map
from cardlab.card.problem.arrays import Array
from cardlab.card.problem.scenario import LinkSpec
from cardlab.core.errors import PlanError

NOISE_DBM_PER_HZ = {"good": -166.0, "normal": -163.0, "poor": -160.0}
REDRAWS = 20
# What the large timescale knows of a channel: so many draws, with a seed that is not that of the rounds.
STATES = 8
OTHER_SEED = 1_000_003


def snr_db(link: LinkSpec, tx_power_dbm: float) -> float:
    """Mean SNR, dB."""
    noise_dbm = NOISE_DBM_PER_HZ[link.channel] + 10.0 * math.log10(link.bandwidth_hz)
    return tx_power_dbm - link.path_loss_db - noise_dbm


def rate_bps(link: LinkSpec, mapping: SnrMap, snr: float) -> float:
    """Rate at an SNR, bit/s; 0 where there is no link (CQI 0)."""
    cqi = mapping.cqi(snr)
    if cqi == 0:
        return 0.0
    return mcs_of_cqi(cqi, mapping.table).efficiency * link.bandwidth_hz * link.protocol_efficiency


def draw_rates(link: LinkSpec, devices: Sequence[str], rng: np.random.Generator) -> tuple[Array, Array]:
    """Uplink and downlink rates of one round [M], bit/s. Raises PlanError where there is no link."""
    mapping = snr_map(link.snr_mapping)
    up = [_rate(link, mapping, link.uplink_tx_dbm, f"{name} uplink", rng) for name in devices]
    down = [_rate(link, mapping, link.downlink_tx_dbm, f"{name} downlink", rng) for name in devices]
    return np.array(up), np.array(down)


def _rate(link: LinkSpec, mapping: SnrMap, tx_dbm: float, what: str, rng: np.random.Generator) -> float:
    mean_db = snr_db(link, tx_dbm)
    for _ in range(REDRAWS):
        fading_db = 10.0 * math.log10(max(rng.exponential(), 1e-12)) if link.fading == "rayleigh" else 0.0
        rate = rate_bps(link, mapping, mean_db + fading_db)
        if rate > 0.0:
            return rate
        if link.fading != "rayleigh":
            break
    raise PlanError(
        f"{what}: no link, CQI 0 at a mean SNR of {mean_db:.1f} dB by {mapping.name}",
        remedy="raise the transmit power, lower path_loss_db or bandwidth_hz, or take a better --channel",
    )


def rates_by_round(
    link: LinkSpec, devices: Sequence[str], given: Sequence[tuple[float | None, float | None]], rounds: int
) -> list[tuple[Array, Array]]:
    """Uplink and downlink rates [M] of each round; a rate `given` for a device stands."""
    rng = np.random.default_rng(link.seed)
    fixed_up = np.array([np.nan if up is None else up for up, _ in given])
    fixed_down = np.array([np.nan if down is None else down for _, down in given])
    found = []
    for _ in range(rounds):
        up, down = draw_rates(link, devices, rng)
        found.append((np.where(np.isnan(fixed_up), up, fixed_up), np.where(np.isnan(fixed_down), down, fixed_down)))
    return found
