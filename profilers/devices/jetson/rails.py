"""The rails of a Jetson as a power meter publishes them; which of them make the total is the board's table."""

from __future__ import annotations

from collections.abc import Collection

from cardlab.profilers.board.rails import SUM_SCOPE, scope, total_name, total_parts
from cardlab.profilers.devices.power import Rail


def make_rails(names: Collection[str]) -> tuple[Rail, ...]:
    """Every rail with its scope, and the total where there is one."""
    parts = total_parts(names)
    rails = [Rail(name=name, scope=scope(name), total=(name,) == parts) for name in names]
    if len(parts) > 1:
        rails.append(Rail(name=total_name(parts), scope=SUM_SCOPE, total=True))
    return tuple(rails)
