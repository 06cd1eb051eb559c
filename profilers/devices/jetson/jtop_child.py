"""The process that imports jtop: one JSON line for each answer of its service, until the service or the parent goes.

    python -m cardlab.profilers.devices.jetson.jtop_child INTERVAL_S

It ends with code 1 and jtop's own message as the last line of stderr when the service is not there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any


def rails_mw(power: Mapping[str, Any]) -> dict[str, float]:
    """Milliwatts by rail of jtop's `power`; the rail that jtop made its total is put back among the others."""
    rails = {str(name): float(values["power"]) for name, values in power.get("rail", {}).items()}
    total = power.get("tot", {})
    if "name" in total:
        rails[str(total["name"])] = float(total["power"])
    return rails


def main() -> int:
    """Print until there is nothing more to print; 1 when jtop says why."""
    import jtop

    try:
        with jtop.jtop(interval=float(sys.argv[1])) as jetson:
            # ok() waits for the next answer of the service: no sleep is needed here.
            while jetson.ok():
                # Flushed, because a pipe is buffered by the block and lines would come minutes late.
                print(json.dumps({"rails": rails_mw(jetson.power)}), flush=True)
    except (jtop.JtopException, OSError, EOFError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    print("its service does not answer any more", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
