"""Rows of a bundle, written by the standard library alone.

The format is that of `cardlab.db.bundle`: a zip of JSON lines with checksums. The file is written anew after
every finished point and put in place whole, so what it says is done is on disk.
"""

import hashlib
import json
import math
import os
import struct
import uuid
import zipfile
from datetime import datetime
from typing import Any, Dict, List, Optional, Tuple

from ..board.errors import BoardError

FORMAT = "cardlab-bundle"
VERSION = 2
DESCRIPTIONS = ("device", "environment", "execution", "task")
TABLES = DESCRIPTIONS + ("run", "point", "operating_point", "measurement", "sample_block")
METER = ("scope", "total", "source", "update_s", "quantisation_w", "check_w", "systematic")

Row = Dict[str, Any]


def new_uid() -> str:
    """32 random hex digits."""
    return uuid.uuid4().hex


def utc_now() -> str:
    """UTC as ISO 8601 with microseconds and a final Z, as every time in the database."""
    return datetime.utcnow().strftime("%Y-%m-%dT%H:%M:%S.%f") + "Z"


def content_hash(plain: object) -> str:
    """Identity of a description: 32 hex digits of the SHA-256 of its canonical JSON."""
    text = json.dumps(_whole(plain), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]


def _whole(plain: object) -> object:
    """Whole floats as integers, so that 2 and 2.0 have one form."""
    if isinstance(plain, dict):
        return {key: _whole(item) for key, item in plain.items()}
    if isinstance(plain, (list, tuple)):
        return [_whole(item) for item in plain]
    if isinstance(plain, float) and math.isfinite(plain) and plain == int(plain):
        return int(plain)
    return plain


class Bundle:
    """Rows by table, and the samples that belong to them."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.tables = {name: [] for name in TABLES}  # type: Dict[str, List[Row]]
        self.blobs = bytearray()

    def add(self, table: str, row: Row) -> None:
        """Append a row; a description that is there already is not repeated."""
        if table in DESCRIPTIONS and any(old["uid"] == row["uid"] for old in self.tables[table]):
            return
        self.tables[table].append(row)

    def add_measurement(self, point: str, quantity: str, unit: str, value: Optional[float] = None, **more: Any) -> None:
        """A measurement of a point.

        Args:
            value: in `unit`; None when it was attempted and cannot be trusted.
            more: segment, phase, rail, stderr, ci95, n, origins, flags, repeats, clean, meter (how a power was read, by
                the names of METER), details, and samples by name.
        """
        uid = new_uid()
        ci95 = more.get("ci95")
        provenance = None
        if value is not None:
            provenance = {"origins": list(more.get("origins", ("measured",))), "how": more.get("how", "direct")}
        self.add(
            "measurement",
            {
                "uid": uid,
                "point_id": point,
                # In the order of adding, as the database numbers them.
                "position": sum(1 for row in self.tables["measurement"] if row["point_id"] == point),
                "quantity": quantity,
                "unit": unit,
                "segment": more.get("segment"),
                "phase": more.get("phase"),
                "rail": more.get("rail"),
                "value": value,
                "stderr": more.get("stderr"),
                "ci_low": ci95[0] if ci95 else None,
                "ci_high": ci95[1] if ci95 else None,
                "n": more.get("n"),
                "provenance": provenance,
                "flags": list(more.get("flags", ())),
                "repeats": more.get("repeats", 1),
                "clean": more.get("clean"),
                **{name: more.get("meter", {}).get(name) for name in METER},
                "details": more.get("details", {}),
            },
        )
        for name, samples in sorted(more.get("samples", {}).items()):
            self._add_samples(uid, name, samples)

    def _add_samples(self, measurement: str, name: str, samples: List[float]) -> None:
        data = struct.pack("<%dd" % len(samples), *samples)
        place = [len(self.blobs), len(data)]
        self.blobs.extend(data)
        row = {"measurement_id": measurement, "name": name, "count": len(samples), "data": place}
        self.add("sample_block", row)

    def write(self) -> None:
        """Put the whole bundle in place. Raises BoardError when the file cannot be written."""
        draft = self.path + ".part"
        digests = {}
        try:
            with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
                for name in TABLES:
                    lines = "".join(json.dumps(row) + "\n" for row in self.tables[name])
                    digests[name + ".jsonl"] = _put(archive, name + ".jsonl", lines.encode("utf-8"))
                digests["blobs.bin"] = _put(archive, "blobs.bin", bytes(self.blobs))
                manifest = {"format": FORMAT, "version": VERSION, "files": digests}
                _put(archive, "manifest.json", json.dumps(manifest, sort_keys=True).encode("utf-8"))
            # A rename alone may leave an empty file behind when the power is cut, which boards see often.
            with open(draft, "rb+") as written:
                os.fsync(written.fileno())
            os.replace(draft, self.path)
        except OSError as error:
            raise BoardError("%s cannot be written (%s)" % (self.path, error.strerror), remedy="name another file")

    def read(self) -> None:
        """Take over a bundle that was written before, to go on with it. Raises BoardError."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                manifest = json.loads(archive.read("manifest.json").decode("utf-8"))
                # Rows are taken over as they are, and two forms must not mix in one file.
                if manifest["version"] != VERSION:
                    raise ValueError("written by another version of the agent")
                digests = manifest["files"]
                for name in TABLES:
                    data = _checked(archive, name + ".jsonl", digests)
                    self.tables[name] = [json.loads(line) for line in data.decode("utf-8").splitlines()]
                self.blobs = bytearray(_checked(archive, "blobs.bin", digests))
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise BoardError("%s is no bundle to go on with (%s)" % (self.path, error), remedy="move it away")

    def unfinished(self, device_key: str, task: Optional[str], execution: str) -> Optional[Tuple[Row, List[int]]]:
        """The newest run of this device, task and execution with points left, and its finished points."""
        devices = {row["uid"] for row in self.tables["device"] if row["key"] == device_key}
        for run in reversed(self.tables["run"]):
            if run["device_id"] not in devices or run["task_id"] != task or run["execution_id"] != execution:
                continue
            closed = {row["point_id"] for row in self.tables["operating_point"]}
            mine = [p for p in self.tables["point"] if p["run_id"] == run["uid"] and p["uid"] in closed]
            done = sorted({p["position"] for p in mine})
            return (run, done) if len(done) < len(run["planned"]) else None
        return None


def _put(archive: zipfile.ZipFile, name: str, data: bytes) -> str:
    archive.writestr(name, data)
    return hashlib.sha256(data).hexdigest()


def _checked(archive: zipfile.ZipFile, name: str, digests: Dict[str, str]) -> bytes:
    data = archive.read(name)
    if hashlib.sha256(data).hexdigest() != digests[name]:
        raise ValueError("the checksum of %s is wrong" % name)
    return data
