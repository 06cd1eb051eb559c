"""What a device is called: as asked, else as this database knows it, else as it calls itself."""

from __future__ import annotations

from dataclasses import replace

from cardlab.db.store import Store
from cardlab.profilers.devices import HardwareDevice
from cardlab.workflows.settings import load_settings


def keep_label(store: Store, platform: HardwareDevice, asked: str | None) -> None:
    """Call the platform what the store calls its key, where nobody asked for a label.

    A host's or a vendor's name is a default and no new label: stored, it would rename a device that was given one.
    """
    if asked is not None or load_settings().name is not None:
        return
    known = next((d.name for d in store.devices.all() if d.key == platform.identity.key), None)
    if known is not None:
        platform.identity = replace(platform.identity, name=known)
