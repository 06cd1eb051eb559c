"""Builds the CPU image from docker/Dockerfile with neither a daemon nor a registry, and uses it as its user would.

    python -m tests.image.build          make image

A root made by debootstrap stands for the base that a registry would give; buildah builds in a chroot. The settings of
pip on this machine hold in the build, too. Then the same file is built on a base that has a torch of its own, as those
for JetPack 6 have, and on one that lacks it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cardlab.profilers.board.host import memory_bytes
from tests.image.faults import faults
from tests.image.pip_settings import relocated

ROOT = Path(__file__).resolve().parents[2]
SUITE = "bookworm"
TOOLS = ("buildah", "debootstrap")
# As NVIDIA names its builds for JetPack; no index has it.
OWN_TORCH = "2.7.0"
# Twice what the images take, as the demo needs memory, too.
_IN_MEMORY_BYTES = 12 * 2**30
_DEMO = "/opt/cardlab/share/cardlab/demo.sh"


class ImageError(Exception):
    """The image is not what it should be, in one line."""


def lacking() -> str | None:
    """Tools that are not installed."""
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"{' and '.join(absent)} not installed: apt install {' '.join(TOOLS)}" if absent else None


def forbidden() -> str | None:
    """Why these tools cannot work here, None where they can."""
    if os.geteuid() != 0:
        return "debootstrap needs root"
    tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"this machine allows no mounts: {tried.stderr.strip()}"


class Buildah:
    """buildah with a storage of its own in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._base = ["buildah", "--root", str(folder / "storage"), "--runroot", str(folder / "run")]
        # Layers are unpacked there; /tmp may be small.
        self._environment = {**os.environ, "TMPDIR": str(folder), "BUILDAH_ISOLATION": "chroot"}
        # vfs copies all of an image for each container, but works also where overlays cannot be laid over another.
        for driver in ("overlay", "vfs"):
            self._environment["STORAGE_DRIVER"] = driver
            if self.attempt("info").returncode == 0:
                break

    def attempt(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run it; stdout and stderr together are kept."""
        return subprocess.run(
            [*self._base, *words],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def __call__(self, *words: str) -> str:
        """Run it and return what it printed. Raises ImageError with its last lines."""
        done = self.attempt(*words)
        if done.returncode != 0:
            raise ImageError(f"buildah {words[0]} failed ({done.returncode}):\n{done.stdout[-3000:]}")
        return done.stdout.strip()

    def run(self, container: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a container as the image's user."""
        return self.attempt("run", container, "--", *words)

    def run_well(self, container: str, *words: str) -> str:
        """As `run`. Raises ImageError where the command fails."""
        done = self.run(container, *words)
        if done.returncode != 0:
            raise ImageError(f"in the image {' '.join(words)} failed ({done.returncode}):\n{done.stdout[-3000:]}")
        return done.stdout


@contextmanager
def step(title: str) -> Iterator[None]:
    """Say what is done and how long it took."""
    print(f"== {title}", flush=True)
    start = time.monotonic()
    yield
    print(f"   ({time.monotonic() - start:.0f} s)", flush=True)


def make_base(buildah: Buildah, name: str, change: Callable[[Path], None] = lambda root: None) -> None:
    """An image of a minimal Debian, as a registry would give it."""
    container = buildah("from", "scratch")
    root = Path(buildah("mount", container))
    words = ["debootstrap", "--variant=minbase", SUITE, str(root)]
    made = subprocess.run([*words, *sys.argv[1:2]], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise ImageError(f"debootstrap failed: {(made.stdout + made.stderr)[-1000:]}")
    for pattern in ("var/cache/apt/archives/*.deb", "var/lib/apt/lists/*_*"):
        for left in root.glob(pattern):
            left.unlink()
    change(root)
    buildah("commit", "--quiet", "--rm", container, name)


def add_own_torch(root: Path) -> None:
    """What pip sees of a torch that somebody built for a board."""
    packages = root / "usr/lib/python3/dist-packages"
    (packages / "torch").mkdir(parents=True)
    (packages / "torch/__init__.py").write_text(f"__version__ = {OWN_TORCH!r}\n", encoding="utf-8")
    described = packages / f"torch-{OWN_TORCH}.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {OWN_TORCH}\n", encoding="utf-8")
    (described / "INSTALLER").write_text("pip\n", encoding="utf-8")


def build_words(folder: Path, target: str, **changed: str) -> list[str]:
    """Words of `buildah build` for a target of docker/bake.json, with other arguments where given."""
    targets = json.loads((ROOT / "docker/bake.json").read_text(encoding="utf-8"))["target"]
    arguments = {**targets[target]["args"], **changed}
    # HEALTHCHECK is Docker's; the format of OCI has none.
    words = ["build", "--format", "docker", "--pull-never", "--file", str(ROOT / "docker/Dockerfile")]
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    settings = relocated(listing)
    file = folder / "pip.conf"
    file.write_text(settings.text, encoding="utf-8")
    for outside, inside in {file: Path("/etc/pip.conf"), **settings.mounts}.items():
        words += ["--volume", f"{outside}:{inside}:ro"]
    for name, value in arguments.items():
        words += ["--build-arg", f"{name}={value}"]
    return words


def inspected(buildah: Buildah, image: str) -> dict[str, Any]:
    """The image's configuration."""
    document: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", image))
    found: dict[str, Any] = document["Docker"]["config"]
    return found


def use(buildah: Buildah, image: str) -> None:
    """What its user does with it: health, a profile, the demo."""
    config = inspected(buildah, image)
    container = buildah("from", "--pull-never", image)
    root = Path(buildah("mount", container))
    size = sum(f.lstat().st_size for f in root.rglob("*") if f.is_file() and not f.is_symlink())
    print(f"{image}: {size / 1e6:.0f} MB", flush=True)
    found = faults(root, config)
    if found:
        raise ImageError("; ".join(found[:5]))
    # CMD and its words; CMD-SHELL would be one for a shell.
    health = config["Healthcheck"]["Test"][1:]
    with step("health check, as the image's user"):
        if buildah.run_well(container, "id", "-u").strip() == "0":
            raise ImageError("it runs as root")
        print(buildah.run_well(container, *health))
    with step("health check without a folder to write to: must fail"):
        sick = buildah.run(container, "env", "XDG_STATE_HOME=/nowhere", *health)
        if sick.returncode != 1 or "set XDG_STATE_HOME" not in sick.stdout:
            raise ImageError(f"the health check says {sick.returncode}: {sick.stdout}")
    with step("a profile"):
        print(
            buildah.run_well(
                container, "profile-device", "--model", "tiny-llama", "--seq", "32", "--repeats", "8", "--no-whole-step"
            )
        )
    with step("the demo"):
        print(buildah.run_well(container, "sh", _DEMO)[-600:])
        if "</html>" not in (root / "var/lib/cardlab/demo/report.html").read_text(encoding="utf-8")[-200:]:
            raise ImageError("the demo wrote no report")
    buildah("rm", container)


def keep_own_torch(buildah: Buildah, folder: Path) -> None:
    """The file of JetPack 6 on a base with a torch of its own, and on one without."""
    with step("a base that lacks the torch it should have: must fail in one line"):
        words = build_words(folder, "jetpack6", BASE="localhost/base", EXTRAS="models")
        refused = buildah.attempt(*words, "--target", "build", "--tag", "localhost/none", str(ROOT))
        said = [line for line in refused.stdout.splitlines() if line.startswith("error: ")]
        if refused.returncode == 0 or not said or "this base has no torch of its own" not in said[0]:
            raise ImageError(f"a base without torch: {refused.returncode}\n{refused.stdout[-2000:]}")
        print(said[0])
    with step(f"a base that has torch {OWN_TORCH}"):
        container = buildah("from", "--pull-never", "localhost/base")
        add_own_torch(Path(buildah("mount", container)))
        buildah("commit", "--quiet", "--rm", container, "localhost/own-torch")
        words = build_words(folder, "jetpack6", BASE="localhost/own-torch", EXTRAS="models")
        buildah(*words, "--target", "build", "--tag", "localhost/kept", str(ROOT))
        container = buildah("from", "--pull-never", "localhost/kept")
        root = Path(buildah("mount", container))
        held = (root / "opt/cardlab/constraints.txt").read_text(encoding="utf-8")
        second = list(root.glob("opt/cardlab/lib/python3*/site-packages/torch*"))
        if f"torch=={OWN_TORCH}" not in held or second:
            raise ImageError(f"the base's torch was not kept: {held} {second}")
        print(buildah.run_well(container, "/opt/cardlab/bin/python", "-c", "import torch; print(torch.__version__)"))
        buildah("rm", container)


def remove(folder: Path) -> None:
    """Remove the storage, unless something of this machine is still mounted in it."""
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8")
    if f" {folder}/" in mounts:
        raise ImageError(f"something is still mounted below {folder}: it is left as it is")
    shutil.rmtree(folder)


def roomy() -> str:
    """Where images can be put: in memory where there is much, since most of the time goes into copying files."""
    _, free = memory_bytes()
    shared = Path("/dev/shm")
    if os.access(shared, os.W_OK) and min(shutil.disk_usage(shared).free, free or 0) > _IN_MEMORY_BYTES:
        return str(shared)
    return "/var/tmp"


def main() -> int:
    """0 when all of it worked, or cannot work here; 1 with what is wrong."""
    absent, cannot = lacking(), forbidden()
    if absent is not None or cannot is not None:
        print(f"image not built: {absent or cannot}")
        # CI installs them; that mounts are forbidden, it cannot change.
        return 1 if absent is not None and os.environ.get("CI") == "true" else 0
    folder = Path(tempfile.mkdtemp(prefix="cardlab-image-", dir=roomy()))
    buildah = Buildah(folder)
    try:
        with step(f"a minimal Debian {SUITE}"):
            make_base(buildah, "localhost/base")
        with step("the CPU image"):
            words = build_words(folder, "cpu", BASE="localhost/base", TORCH_INDEX="")
            buildah(*words, "--tag", "localhost/cardlab:cpu", str(ROOT))
        use(buildah, "localhost/cardlab:cpu")
        keep_own_torch(buildah, folder)
    except ImageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        remove(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
