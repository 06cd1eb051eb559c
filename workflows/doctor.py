"""`doctor`: what was found, what feeds what, and the command that mends each lack."""

from __future__ import annotations

import importlib.util
import os
import platform as host_platform
import tempfile
from collections.abc import Iterable
from importlib import metadata

from cardlab import __version__
from cardlab.core.errors import CardlabError, MissingDependencyError, NotFoundError
from cardlab.core.records.task import NF4
from cardlab.db import open_store
from cardlab.profilers.board.identity import state_folder
from cardlab.profilers.devices import HardwareDevice, Probe, helper, open_platform
from cardlab.profilers.devices.guard import journals
from cardlab.profilers.runtime.execution import import_torch, native_dtypes, torch_lack, try_kernels
from cardlab.workflows.options.profile import DoctorOptions

NEEDED_BY = {
    "torch": ("models", "models cannot be profiled"),
    "transformers": ("models", "models cannot be profiled"),
    "peft": ("models", "models cannot be profiled"),
    "fvcore": ("models", "FLOP counts have one check less"),
    "pyzmq": ("models", "no split run"),
    "bitsandbytes": ("quant", "no weights in 8 or 4 bits"),
    "datasets": ("data", "no training data in parquet"),
    "matplotlib": ("report", "--plot draws nothing; HTML reports need no more"),
}


def software_probes() -> Iterable[Probe]:
    """Python and the packages that measuring, split runs and pictures need."""
    yield Probe(name="cardlab", ok=True, state=f"{__version__} on Python {host_platform.python_version()}")
    # Versions are asked of the metadata: importing torch for its version takes seconds.
    for package, (extra, lack) in NEEDED_BY.items():
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            remedy = f"pip install 'cardlab[{extra}]'"
            yield Probe(name=package, ok=False, state=f"not installed: {lack}", remedy=remedy)
            continue
        old = torch_lack(version) if package == "torch" else None
        if old is None:
            yield Probe(name=package, ok=True, state=version)
        else:
            yield Probe(name=package, ok=False, state=f"{old.message}: {lack}", remedy=old.remedy)


def rights_probe() -> Probe:
    """Whether this user may hold frequencies: root, or through the helper."""
    if os.geteuid() == 0:
        return Probe(name="rights", ok=True, state="root")
    if helper.helper_answers():
        return Probe(name="rights", ok=True, state=f"not root; {helper.NAME} answers through sudo")
    state = "not root, and the clock helper is not allowed: frequencies that only root may hold stay as found"
    return Probe(name="rights", ok=False, state=state, remedy=helper.remedy())


def state_probe() -> Probe:
    """Whether what must outlive a process can be kept: the journal of locked frequencies, a key made once."""
    folder = state_folder()
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    # Asked by writing: root may write everywhere by the mode of a file, but not on a read-only file system.
    try:
        with tempfile.TemporaryFile(dir=nearest):
            return Probe(name="state", ok=True, state=str(folder))
    except OSError as error:
        state = f"nothing can be kept in {folder} ({error.strerror}): frequencies cannot be held"
        return Probe(name="state", ok=False, state=state, remedy="set XDG_STATE_HOME to a folder that you may write")


def database_probe(location: str) -> Probe:
    """Whether the database opens, and what is in it."""
    try:
        with open_store(location, create=False) as store:
            count = len(store.runs.summaries())
    except NotFoundError:
        return Probe(name="database", ok=None, state=f"{location} does not exist yet; the first profile makes it")
    except CardlabError as error:
        return Probe(name="database", ok=False, state=error.message, remedy=error.remedy)
    return Probe(name="database", ok=True, state=f"{location}: {count} runs")


def clock_probes() -> Iterable[Probe]:
    """Frequencies that a dead process left locked."""
    for journal in journals():
        if journal.abandoned:
            yield Probe(
                name="frequency left locked",
                ok=False,
                state=f"{journal.device_key}, by process {journal.pid} that is gone",
                remedy="profile-device restore",
            )


def platform_probes(name: str) -> Iterable[Probe]:
    """What the platform says of itself, or why it cannot be opened."""
    try:
        platform = open_platform(name)
    except CardlabError as error:
        yield Probe(name="platform", ok=False, state=error.message, remedy=error.remedy)
        return
    yield Probe(name="platform", ok=True, state=platform.identity.platform)
    yield from torch_probe(platform)
    yield from kernel_probe(platform)
    yield from platform.capabilities()
    platform.close()


TORCH_DEVICE = "models on it"
TORCH_LOADS = "torch loads"


def torch_probe(platform: HardwareDevice) -> Iterable[Probe]:
    """Whether torch computes on the device that was found, and on the GPU that the driver shows beside a CPU."""
    if platform.torch_device is None or not importlib.util.find_spec("torch"):
        return
    from cardlab.profilers.devices.nvidia.nvml import gpu_count

    try:
        torch = import_torch()
    except MissingDependencyError as error:
        yield Probe(name=TORCH_LOADS, ok=False, state=error.message, remedy=error.remedy)
        return

    gpus = gpu_count()
    wanted = platform.torch_device.startswith("cuda")
    if not wanted and gpus == 0:
        return
    usable = bool(torch.cuda.is_available())
    built = "is built without CUDA" if torch.version.cuda is None else f"is built for CUDA {torch.version.cuda}"
    if usable:
        if wanted:
            yield Probe(name=TORCH_DEVICE, ok=True, state=f"torch {torch.__version__} finds it")
        return
    where = "no model can be measured on it" if wanted else f"{gpus} GPU(s) that the driver shows are left out"
    remedy = platform.torch_remedy or "pip install torch, a build with CUDA: https://pytorch.org/get-started/locally"
    state = f"torch {torch.__version__} {built} and finds no GPU: {where}"
    yield Probe(name=TORCH_DEVICE, ok=False, state=state, remedy=f"{remedy}; --platform cpu measures the CPU")


def kernel_probe(platform: HardwareDevice) -> Iterable[Probe]:
    """Whether products of weights in 4 bits run on the device: one is launched, since an import proves nothing."""
    device = platform.torch_device
    if device is None or not importlib.util.find_spec("bitsandbytes") or not importlib.util.find_spec("torch"):
        return
    try:
        import_torch()
    except MissingDependencyError:
        # Said already, by the line of torch.
        return
    try:
        try_kernels(device, native_dtypes(device)[0], NF4)
    except CardlabError as error:
        yield Probe(name="4-bit kernels", ok=False, state=error.message, remedy=error.remedy)
        return
    yield Probe(name="4-bit kernels", ok=True, state=f"a product of nf4 weights ran on {device}")


def nothing_measurable(probes: Iterable[Probe]) -> bool:
    """Whether no model can be measured here: no device, no torch, or one that does not compute on the device."""
    found = {probe.name: probe for probe in probes}
    device = found["platform"]
    if not device.ok or device.state == "simulated":
        return not device.ok
    on_it = found.get(TORCH_DEVICE)
    # Beside a GPU that torch does not see, the CPU can still be measured.
    blind = device.state in ("nvidia", "jetson") and on_it is not None and on_it.ok is False
    return blind or found["torch"].ok is False or TORCH_LOADS in found


def doctor(database: str, options: DoctorOptions | None = None) -> tuple[Probe, ...]:
    """Everything that was looked at, each with its remedy where it lacks something; `database` is a path or URL."""
    return (
        *software_probes(),
        rights_probe(),
        state_probe(),
        database_probe(database),
        *platform_probes((options or DoctorOptions()).platform),
        *clock_probes(),
    )
