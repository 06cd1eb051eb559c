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

# Density and not power: what reaches the receiver grows with the bandwidth, so a wider channel is also noisier.
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
    return _rate_of_cqi(link, mapping, mapping.cqi(snr))


def _rate_of_cqi(link: LinkSpec, mapping: SnrMap, cqi: int) -> float:
    if cqi == 0:
        return 0.0
    # The rate is that of the MCS the CQI stands for and not Shannon's: a scheduler can only choose a row of the table.
    return mcs_of_cqi(cqi, mapping.table).efficiency * link.bandwidth_hz * link.protocol_efficiency


def draw_rates(link: LinkSpec, devices: Sequence[str], rng: np.random.Generator) -> tuple[Array, Array]:
    """Uplink and downlink rates of one round [M], bit/s. Raises PlanError where there is no link."""
    return _drawn(link, devices, "uplink", rng), _drawn(link, devices, "downlink", rng)


def _drawn(link: LinkSpec, devices: Sequence[str], way: str, rng: np.random.Generator) -> Array:
    """Rates of one direction [M]: device by device, each drawn again until it has a link."""
    mapping = snr_map(link.snr_mapping)
    mean_db = snr_db(link, link.uplink_tx_dbm if way == "uplink" else link.downlink_tx_dbm)
    steps = range(len(mapping.thresholds_db) + 1)
    rates = np.array([_rate_of_cqi(link, mapping, 0 if n == 0 else mapping.first + n - 1) for n in steps])
    # A random number that gives no link belongs to the same device as the next one, so the rates of all devices are
    # the numbers that give one, in their order: drawn in blocks, and never more of them than are still missing.
    found: list[Array] = []
    missing, outages = len(devices), 0
    while missing:
        fading_db = np.zeros(missing)
        if link.fading == "rayleigh":
            fading_db = 10.0 * np.log10(np.maximum(rng.exponential(size=missing), 1e-12))
        drawn = rates[np.searchsorted(mapping.thresholds_db, mean_db + fading_db, side="right")]
        linked = np.flatnonzero(drawn > 0.0)
        # How often in a row each device was drawn for nothing, the last one not yet done.
        in_a_row = np.diff(np.concatenate([[-1 - outages], linked, [missing]])) - 1
        most = 1 if link.fading != "rayleigh" else REDRAWS
        if (in_a_row >= most).any():
            name = devices[len(devices) - missing + int(np.argmax(in_a_row >= most))]
            raise PlanError(
                f"{name} {way}: no link, CQI 0 at a mean SNR of {mean_db:.1f} dB by {mapping.name}",
                remedy="raise the transmit power, lower path_loss_db or bandwidth_hz, or take a better --channel",
            )
        found.append(drawn[linked])
        missing, outages = missing - linked.size, int(in_a_row[-1])
    return np.concatenate(found)


def rates_by_round(
    link: LinkSpec, devices: Sequence[str], given: Sequence[tuple[float | None, float | None]], rounds: int
) -> list[tuple[Array, Array]]:
    """Uplink and downlink rates [M] of each round; a rate `given` for a device stands."""
    # One stream for all rounds: rounds differ, and the same seed gives the same rounds whatever their number.
    rng = np.random.default_rng(link.seed)
    fixed_up = np.array([np.nan if up is None else up for up, _ in given])
    fixed_down = np.array([np.nan if down is None else down for _, down in given])
    found = []
    for _ in range(rounds):
        # Drawn even where a rate is given, so that giving one device a rate leaves the channel of the others as it was.
        up, down = draw_rates(link, devices, rng)
        found.append((np.where(np.isnan(fixed_up), up, fixed_up), np.where(np.isnan(fixed_down), down, fixed_down)))
    return found
