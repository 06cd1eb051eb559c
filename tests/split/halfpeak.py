"""The device's half of a run in a process of its own, step by step: what it held before, and at its highest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from cardlab.core.plain import from_plain, to_plain
from cardlab.core.records.task import Execution, Task


def half_peak(task: Task, execution: Execution, cut: int, cache: Path) -> dict[str, int]:
    """Bytes resident with the framework alone, at the highest while loading, and at the highest of all.

    Twice: seeded weights are made and written the first time, as a download would be.
    """
    given = json.dumps({"task": to_plain(task), "execution": to_plain(execution), "cut": cut})
    command = [sys.executable, "-m", "tests.split.halfpeak", given]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(given: dict[str, Any]) -> None:
    import torch

    from cardlab.profilers.runtime.overhead import peak_resident_bytes, resident_bytes, warm_framework
    from cardlab.split.adapters import initial_adapters
    from cardlab.split.halves import Half
    from cardlab.split.recipe import Recipe
    from cardlab.split.weights import open_weights

    task, execution = from_plain(Task, given["task"]), from_plain(Execution, given["execution"])
    warm_framework(execution, "cpu")
    framework_bytes = resident_bytes()
    half = Half(task, execution, open_weights(task, 0), "device", Recipe(learning_rate=1e-3))
    half.set_cut(given["cut"])
    half.load(initial_adapters(task, 0))
    loading_bytes = peak_resident_bytes()
    for step in range(3):
        half.clock.step = step
        ids = torch.randint(0, task.architecture.vocab_size, (task.batch, task.sequence))
        activation = half.forward(ids)
        half.backward(activation, torch.ones_like(activation))
    found = {"framework": framework_bytes, "loading": loading_bytes, "peak": peak_resident_bytes()}
    print(json.dumps(found))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
