"""What a linear map offers that keeps its frozen weight in another form than the dense one.

Such a map has the dense shape on the meta device until it is given a weight. Apart from how that is done
(quantised.py, which needs bitsandbytes), so that whoever fills and frees models need not know.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class KeptMap:
    """A linear map of `in_features` to `out_features` whose weight takes `kept_bytes` when it is held."""

    in_features: int
    out_features: int

    @abstractmethod
    def keep(self, dense: torch.Tensor, device: str) -> None:
        """Take a dense weight [out, in] over in this map's form, on the device."""

    @abstractmethod
    def keep_stored(self, stored: Mapping[str, torch.Tensor], device: str) -> None:
        """Take a weight over that has this map's form already: "" is its values, others are named by what they are."""

    @abstractmethod
    def forget(self) -> None:
        """Give the memory of the weight back."""

    @property
    @abstractmethod
    def kept_bytes(self) -> int:
        """Bytes of the weight in this form, scales and tables included."""


def kept_maps(module: torch.nn.Module) -> Iterator[tuple[str, KeptMap]]:
    """Such maps of a module by their path inside it."""
    return ((path, part) for path, part in module.named_modules() if isinstance(part, KeptMap))


def weight_bytes(module: torch.nn.Module) -> int:
    """Bytes of the frozen weights of a module, as they are held."""
    kept = [part for _, part in kept_maps(module)]
    of_kept = {id(parameter) for part in kept for name, parameter in _own(part) if name == "weight"}
    frozen = (p for p in module.parameters() if not p.requires_grad and id(p) not in of_kept)
    dense_bytes: int = sum(p.numel() * p.element_size() for p in frozen)
    return dense_bytes + sum(part.kept_bytes for part in kept)


def _own(part: object) -> Iterator[tuple[str, torch.nn.Parameter]]:
    named: Iterator[tuple[str, torch.nn.Parameter]] = part.named_parameters(recurse=False)  # type: ignore[attr-defined]
    return named
