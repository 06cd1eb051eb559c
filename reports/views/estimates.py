"""Numbers with their uncertainty beside them: the form every document shares."""

from __future__ import annotations

from cardlab.core.plain import Document
from cardlab.core.quantity import Estimate


class Estimates:
    """Collects plain numbers for a document and, beside them, what is known about each."""

    def __init__(self) -> None:
        self.beside: dict[str, Document] = {}

    def put(self, key: str, estimate: Estimate | None) -> float | None:
        """The plain value of `estimate` (None if there is none); the rest is kept under `key`."""
        if estimate is None:
            return None
        self.beside[key] = {
            "stderr": estimate.stderr,
            "ci95": None if estimate.ci95 is None else list(estimate.ci95),
            "n": estimate.n,
            "provenance": estimate.provenance.as_plain(),
        }
        return estimate.value
