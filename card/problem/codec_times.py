"""How long codecs and the handling of adapters take, cut by cut, from codec profiles (`profile-device --compression`).

    encode = activation on the device + gradient on the server      decode = the other way round     each mini-batch
    handling = adapters unpacked, loaded and packed again on the device, loaded and packed on the server   each round

Tensors that are not compressed take time too: they are copied and get a checksum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cardlab.card.problem.arrays import Array
from cardlab.core.records.measurement import CodecCost, Measurement, Profile, RunKind
from cardlab.db.store import Store

COMPRESSION = "compression"
HANDLING = "handling"


@dataclass(frozen=True)
class CodecProfile:
    """One machine's codec profile, by codec, tensor ("activation", "gradient") and cut."""

    profile: Profile

    @cached_property
    def rows(self) -> dict[tuple[str, str, int], CodecCost]:
        """Costs of codecs that were measured."""
        return {
            (cost.codec, cost.tensor, cost.cut): cost
            for m in self._of(COMPRESSION)
            if (cost := m.codec) is not None and cost.codec and cost.tensor and m.estimate is not None
        }

    @cached_property
    def handling_s(self) -> dict[tuple[str, int], float]:
        """Seconds a round by side ("device", "server") and cut; empty in profiles made before it was measured."""
        return {
            (cost.side, cost.cut): m.estimate.value
            for m in self._of(HANDLING)
            if (cost := m.codec) is not None and cost.side and m.estimate is not None
        }

    def _of(self, quantity: str) -> list[Measurement]:
        return [m for point in self.profile.points for m in point.measurements if m.quantity == quantity]


@dataclass(frozen=True, slots=True)
class Codecs:
    """Codec profiles of who takes part.

    Attributes:
        devices: keys [M].
        server: key.
        profiles: by key, of those that have one.
    """

    devices: tuple[str, ...]
    server: str
    profiles: Mapping[str, CodecProfile]

    @property
    def runs(self) -> tuple[str, ...]:
        """Uids of the profiles' runs."""
        return tuple(found.profile.run.uid for found in self.profiles.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Codecs that every profile holds, without "none"."""
        held = [{codec for codec, _, _ in found.rows} for found in self.profiles.values()]
        # A codec that one machine did not measure would have no time there, and so look free.
        return tuple(sorted(set.intersection(*held) - {"none"})) if held else ()

    def seconds(self, codec: str | None, cuts: Sequence[int]) -> tuple[Array, Array]:
        """Encode and decode of a mini-batch [M,C] each; 0 for a device whose times no profile tells."""
        encode, decode = self._by_side(codec, cuts).sum(axis=0)
        return encode, decode

    def server_seconds(self, codec: str, cuts: Sequence[int]) -> tuple[Array, Array]:
        """What of `seconds` the server computes: gradients encoded, activations decoded [M,C] each."""
        encode, decode = self._by_side(codec, cuts)[1]
        return encode, decode

    def _by_side(self, codec: str | None, cuts: Sequence[int]) -> Array:
        """Encode and decode on the device, then on the server [2,2,M,C]."""
        total = np.zeros((2, 2, len(self.devices), len(cuts)))
        for m, (device, server) in enumerate(self._pairs()):
            if codec is not None and device is not None and server is not None:
                # A pair: the device compresses activations and the server gradients, each for the other to decode.
                found = codec_seconds(device, server, codec, cuts)
                if found is not None:
                    total[:, :, m] = found
        return total

    def rate(self, codec: str, raw_bytes: int) -> float:
        """Bytes sent over raw bytes, mean over cuts, tensors and machines."""
        rows = [cost for found in self.profiles.values() for key, cost in found.rows.items() if key[0] == codec]
        return float(np.mean([cost.encoded_bytes / cost.values for cost in rows if cost.values])) / raw_bytes

    def timed(self, codec: str, cuts: Sequence[int]) -> bool:
        """Whether `seconds` has measured times of every device and of the server at these cuts."""
        return all(
            device is not None and server is not None and codec_seconds(device, server, codec, cuts) is not None
            for device, server in self._pairs()
        )

    def sent_bytes(self, codec: str, cut: int) -> tuple[float, float] | None:
        """Bytes of an encoded activation and gradient at a cut, mean over machines; None where it was not measured."""
        sizes = []
        for tensor in ("activation", "gradient"):
            rows = [found.rows.get((codec, tensor, cut)) for found in self.profiles.values()]
            sizes.append([row.encoded_bytes for row in rows if row is not None])
        if not all(sizes):
            return None
        return float(np.mean(sizes[0])), float(np.mean(sizes[1]))

    def handling_s(self, cuts: Sequence[int]) -> Array | None:
        """Handling of a round's adapters [M,C], 0 for a device whose times no profile tells; None if all are so."""
        found = [
            None if device is None or server is None else handling_seconds(device, server, cuts)
            for device, server in self._pairs()
        ]
        if all(row is None for row in found):
            return None
        return np.array([np.zeros(len(cuts)) if row is None else row for row in found])

    def borrowed(self) -> tuple[str, ...]:
        """Keys that have no profile of their own."""
        return tuple(key for key in dict.fromkeys((*self.devices, self.server)) if key not in self.profiles)

    def with_borrowed(self) -> Codecs:
        """With the profile of another machine for those that have none of their own."""
        # Any machine's times are nearer than none, which would count as zero; the plan says that they are borrowed.
        first = next(iter(self.profiles.values()))
        return Codecs(self.devices, self.server, {**dict.fromkeys(self.borrowed(), first), **self.profiles})

    def _pairs(self) -> list[tuple[CodecProfile | None, CodecProfile | None]]:
        there = self.profiles.get(self.server)
        return [(self.profiles.get(device), there) for device in self.devices]


def codecs_of(store: Store, devices: Sequence[str], server: str, task: str) -> Codecs:
    """The newest complete codec profile of each machine (key) on a task (uid)."""
    newest: dict[str, CodecProfile] = {}
    for profile in store.runs.select(kind=RunKind.CODEC, task=task):
        if profile.complete and profile.run.device.key in (*devices, server):
            newest[profile.run.device.key] = CodecProfile(profile)
    return Codecs(tuple(devices), server, newest)


def codec_seconds(device: CodecProfile, server: CodecProfile, codec: str, cuts: Sequence[int]) -> Array | None:
    """Encode and decode seconds of a mini-batch on the device, then on the server, by cut [2,2,C].

    None where a cut or the codec was not measured.
    """
    here, there = device.rows, server.rows
    found = np.zeros((2, 2, len(cuts)))
    for n, cut in enumerate(cuts):
        up, down = (codec, "activation", int(cut)), (codec, "gradient", int(cut))
        if not (up in here and up in there and down in here and down in there):
            return None
        found[0, :, n] = here[up].encode_s, here[down].decode_s
        found[1, :, n] = there[down].encode_s, there[up].decode_s
    return found


def handling_seconds(device: CodecProfile, server: CodecProfile, cuts: Sequence[int]) -> Array | None:
    """Adapters' handling of a round by cut [C]; None where it was not measured."""
    here, there = device.handling_s, server.handling_s
    if not all(("device", int(cut)) in here and ("server", int(cut)) in there for cut in cuts):
        return None
    return np.array([here["device", int(cut)] + there["server", int(cut)] for cut in cuts])
