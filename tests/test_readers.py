"""If these fail, a file from somebody else's hand ends in a traceback, or half of it ends up in the database."""

from __future__ import annotations

import ast
import hashlib
import json
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cardlab.card.problem.scenario_file import bundled_scenarios, parse_scenario
from cardlab.core.errors import CardlabError
from cardlab.db import open_store
from cardlab.db.bundle import VERSION, merge_bundle
from cardlab.workflows.exchange import import_sweep
from cardlab.workflows.options.calibrate import ImportOptions
from cardlab.workflows.settings import load_settings
from tests.conftest import ROOT
from tests.db.test_bundle import make_board

SAMPLE = 60
RELEASED_BUNDLE = ROOT / "tests" / "golden" / "v0_1_0_every_kind.cardlab"
CSV = "frequency_mhz,power_w,latency_s,workload,rail\n# note\n1000,50,0.2,gemm,board\n2000,90.5,0.1,gemm,board\n"
KERNEL_TUNER = json.dumps(
    {"cache": {f"{f}": {"nvml_gr_clock": f, "nvml_power": 20 + f / 100, "time": 1e6 / f} for f in (600, 900, 1200)}}
)
CONFIG = json.dumps(
    {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "vocab_size": 99,
        "max_position_embeddings": 64,
    }
)
WORDS = ("nan", "inf", "-1", "1e400", '""', "null", "true", "[]", "{}", "\0", "ü", "=", ",", "\n", "2e9", "9" * 400)


@st.composite
def damaged(draw: st.DrawFn, text: str) -> str:
    """The text with pieces removed, doubled or replaced by something else, or something else altogether."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.text(max_size=200))
    for _ in range(draw(st.integers(1, 2))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        new = draw(st.one_of(st.sampled_from(WORDS), st.text(max_size=5), st.just(text[start:end] * 2)))
        text = text[:start] + new + text[end:]
    return text


@cache
def scenario_texts() -> tuple[str, ...]:
    folder = resources.files("cardlab.card") / "scenarios"
    return tuple((folder / f"{name}.toml").read_text(encoding="utf-8") for name in bundled_scenarios())


@cache
def bundle_parts(version: int) -> dict[str, bytes]:
    """Files of a whole bundle of that version, without its manifest; version 1 is that of release 0.1.0."""
    with tempfile.TemporaryDirectory() as folder:
        whole = RELEASED_BUNDLE if version == 1 else make_board(Path(folder), 1)
        with zipfile.ZipFile(whole) as bundle:
            return {name: bundle.read(name) for name in bundle.namelist() if name != "manifest.json"}


@st.composite
def bundles(draw: st.DrawFn) -> tuple[int, dict[str, bytes]]:
    """Version and files of a bundle, one of them damaged, its checksums right again: only its content is wrong."""
    # The released one holds a run of every kind, and takes ten times as long to merge.
    version = draw(st.sampled_from([VERSION] * 9 + [1]))
    return version, draw(damaged_bundles(version))


@st.composite
def damaged_bundles(draw: st.DrawFn, version: int) -> dict[str, bytes]:
    parts = dict(bundle_parts(version))
    name = draw(st.sampled_from(sorted(parts)))
    if name == "blobs.bin":
        parts[name] = parts[name][: draw(st.integers(0, len(parts[name])))]
        return parts
    lines = parts[name].decode("utf-8").splitlines()
    if lines:
        number = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.integers(0, 2))
        if kind == 0:
            lines[number] = draw(damaged(lines[number]))
        elif kind == 1:
            del lines[number]
        else:
            row = json.loads(lines[number])
            values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([]))
            row[draw(st.sampled_from(sorted(row)))] = draw(values)
            lines[number] = json.dumps(row)
    parts[name] = ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")
    return parts


def write_bundle(path: Path, parts: dict[str, bytes], version: int = VERSION) -> None:
    with zipfile.ZipFile(path, "w") as bundle:
        for name, data in parts.items():
            bundle.writestr(name, data)
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()}
        manifest = {"format": "cardlab-bundle", "version": version, "files": digests}
        bundle.writestr("manifest.json", json.dumps(manifest))


@dataclass
class Tally:
    """What was tried: files, how many of them differ, and how many were read."""

    tried: int = 0
    read: int = 0
    seen: set[int] = field(default_factory=set)

    def count(self, content: object, read: Callable[[], object]) -> bool:
        """Whether it was read; anything but an error of our own is a failure of the test."""
        self.tried += 1
        self.seen.add(hash(content))
        try:
            read()
        except CardlabError as error:
            assert str(error).strip() and "\n" not in str(error).strip(), f"not one line: {error}"
            assert error.remedy
            return False
        self.read += 1
        return True

    def conclude(self, wanted: int, what: str) -> None:
        """As many as were wanted, most of them different, some read and some refused."""
        assert self.tried >= wanted, f"{self.tried} tried of {wanted}"
        assert len(self.seen) > 0.5 * wanted, f"only {len(self.seen)} of {self.tried} differ"
        assert 0 < self.read < self.tried, "the damage is either total or none"
        print(f"{self.tried} {what}, {len(self.seen)} different: {self.read} read, the others refused in one line")


def counts(examples: int) -> settings:
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    return settings(max_examples=examples, deadline=None, suppress_health_check=slow, database=None)


def sample_and(full: int, sample: int = SAMPLE) -> pytest.MarkDecorator:
    """A sampled count, and the full one in `make accept`; the four readers' full counts make 100,000."""
    counts = [pytest.param(sample, id="sample"), pytest.param(full, id="full", marks=pytest.mark.accept)]
    return pytest.mark.parametrize("examples", counts)


@sample_and(35_000, 250)
def test_csv_and_kernel_tuner_files(examples: int, tmp_path: Path) -> None:
    store = open_store(tmp_path / "x.db")
    tally = Tally()

    @counts(examples)
    @example(("a.csv", CSV))
    @example(("a.json", KERNEL_TUNER))
    @given(st.one_of(damaged(CSV).map(lambda t: ("a.csv", t)), damaged(KERNEL_TUNER).map(lambda t: ("a.json", t))))
    def read(file: tuple[str, str]) -> None:
        path = tmp_path / file[0]
        path.write_bytes(file[1].encode("utf-8", "surrogatepass"))
        before = len(store.runs.summaries()) if tally.read < 50 else None
        # A device of its own: what was imported for one before is not stored again.
        device = f"x{tally.tried}"
        whole = tally.count(file, lambda: import_sweep(store, ImportOptions(file=str(path), device=device)))
        if before is not None:
            runs = store.runs.summaries()
            assert len(runs) > before if whole else len(runs) == before, "half a file was stored"

    read()
    tally.conclude(examples, "CSV and Kernel Tuner files")


@sample_and(8_000)
def test_bundles(examples: int, tmp_path: Path) -> None:
    tally, merged = Tally(), dict.fromkeys((1, VERSION), 0)

    @counts(examples)
    @example((1, dict(bundle_parts(1))))
    @example((VERSION, dict(bundle_parts(VERSION))))
    @given(bundles())
    def read(bundle: tuple[int, dict[str, bytes]]) -> None:
        version, parts = bundle
        path = tmp_path / "home.db"
        path.unlink(missing_ok=True)
        for rest in tmp_path.glob("home.db-*"):
            rest.unlink()
        write_bundle(tmp_path / "b", parts, version)
        with open_store(path) as store:
            whole = tally.count(tuple(parts.items()), lambda: merge_bundle(store, tmp_path / "b"))
            merged[version] += whole
            if not whole:
                assert store.runs.summaries() == (), "half a bundle was merged"

    read()
    tally.conclude(examples, "bundles")
    # The whole ones at least: damage alone may leave none of a small sample to be read.
    assert all(merged.values()), merged


@sample_and(35_000)
def test_scenarios(examples: int) -> None:
    tally = Tally()

    @counts(examples)
    @example(scenario_texts()[0])
    @given(st.sampled_from(scenario_texts()).flatmap(damaged))
    def read(text: str) -> None:
        tally.count(text, lambda: parse_scenario(text))

    read()
    tally.conclude(examples, "scenarios")


@sample_and(22_000, 250)
def test_configurations(examples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cardlab.profilers.runtime.configs import load_architecture

    tally = Tally()
    monkeypatch.chdir(tmp_path)

    @counts(examples)
    @example(("config.json", CONFIG))
    @given(
        st.one_of(
            damaged(CONFIG).map(lambda t: ("config.json", t)),
            damaged('db = "x.db"\nname = "bench"\n').map(lambda t: ("cardlab.toml", t)),
        )
    )
    def read(file: tuple[str, str]) -> None:
        path = tmp_path / file[0]
        path.write_bytes(file[1].encode("utf-8", "surrogatepass"))
        model = file[0] == "config.json"
        tally.count(file, (lambda: load_architecture(str(path))) if model else load_settings)

    read()
    tally.conclude(examples, "model and settings files")


def test_only_the_entry_point_catches_everything() -> None:
    found = []
    for room in ("core", "db", "profilers", "calibrate", "card", "split", "reports", "cli"):
        for file in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ExceptHandler):
                    names = {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)} if node.type else {"all"}
                    if names & {"Exception", "BaseException", "all"}:
                        found.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    # The tokenizers library raises bare Exception, and its panics are not even that; some hundred configuration classes
    # of transformers refuse with whatever error they come to, and so do the templates that a model's maker wrote.
    others = {
        "split/tokenizer.py",
        "split/encoding.py",
        "profilers/runtime/families/generic.py",
    }
    assert {place.split(":")[0] for place in found} == {"cli/main.py", *others}, found
