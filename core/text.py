"""Numbers for people: SI prefixes, and N/A for what was not measured.

Storage and exchange use bare SI numbers; only text and reports pass through here.
"""

from __future__ import annotations

NOT_MEASURED = "N/A"

_PREFIXES = (
    (1e12, "T"),
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
    (1.0, ""),
    (1e-3, "m"),
    (1e-6, "u"),
    (1e-9, "n"),
)
_BINARY = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def si(value: float | None, unit: str, digits: int = 4) -> str:
    """`value` with an SI prefix and its unit, e.g. si(1.5e9, "Hz") = "1.5 GHz"; None gives N/A."""
    if value is None:
        return NOT_MEASURED
    if value == 0:
        return f"0 {unit}"
    size = abs(value)
    # 999.9999999 rounds to 1 of the next prefix.
    scale, prefix = next((p for p in _PREFIXES if size >= p[0] * (1 - 1e-9)), _PREFIXES[-1])
    return f"{value / scale:.{digits}g} {prefix}{unit}"


def data_size(value: float | None) -> str:
    """Bytes with a binary prefix (MiB is 1024 x 1024); None gives N/A."""
    if value is None:
        return NOT_MEASURED
    for scale, name in _BINARY:
        if abs(value) >= scale:
            return f"{value / scale:.4g} {name}"
    return f"{value:.0f} B"


def milliseconds(value_s: float | None) -> str:
    """Seconds as milliseconds without the unit (it stands in the column head)."""
    return NOT_MEASURED if value_s is None else f"{value_s * 1e3:.4g}"


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction as a percentage."""
    return NOT_MEASURED if fraction is None else f"{fraction * 100:.{digits}f} %"


def subject(
    quantity: str,
    *,
    segment: str | None = None,
    phase: str | None = None,
    rail: str | None = None,
    codec: str | None = None,
) -> str:
    """What a measurement or fit is of, in words: "layer forward latency", "waiting power board", "accuracy dense:4"."""
    named = {"wait_power": "waiting power", "idle_power": "idle power"}.get(quantity, quantity.replace("_", " "))
    return " ".join(word for word in (segment, phase, named, rail, codec) if word)


def duration(seconds: float | None) -> str:
    """A length of time as a person says it: 45 s, 12 min, 3 h 05 min."""
    if seconds is None:
        return NOT_MEASURED
    # People say "90 s" up to here and minutes from there on.
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
