"""An option that neither changes the answer nor is refused was dropped in silence: there is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cardlab.calibrate.service import fit_store
from cardlab.core.quantity import Provenance
from cardlab.core.records.link import Link
from tests.card.database import BOARD, MEASURED, SERVER, add_device, power_w, whole
from tests.cli.matrix import HOW, SAME_FOR_ALL, Base, all_commands, cells, options_of
from tests.cli.partners import PORT, a_device, a_server
from tests.cli.run import command
from tests.conftest import surround

ROOT = Path(__file__).resolve().parents[2]
RATES = ("--uplink-mbps", "50", "--downlink-mbps", "80")
FROM_DB = ("card", "plan", "--from-db", "--server", "gpu", "--device", "board")
PROFILE = ("profile-device", "--platform", "simulated:orin-nano:m", "--model", "tiny-llama", "--seq", "16")
SHORT = ("--frequencies", "2", "--no-whole-step")

# What a run reports that a clock made.
TIMES = r"^(.*_s|.*_s_by_.*|delay_terms|.*_w|.*_j)$"
# A value other than the default, that makes sense for most commands.
VALUES = {
    "--adapt": "--adapt",
    "--adapter-dtype": "bfloat16",
    "--adapters": "{folder}/nothing",
    "--all": "--all",
    "--allow": "{folder}/nobody.public",
    "--attention": "eager",
    "--batch": "3",
    "--backup": "--no-backup",
    "--before": "2020-01-01",
    "--bind": "127.0.0.1:5999",
    "--budget": "20s",
    "--channel": "poor",
    "--chat-template": "{folder}/nothing.jinja",
    "--checkpointing": "--checkpointing",
    "--codec": "dense:6",
    "--compression": "0.3",
    "--confidence": "0.95",
    "--cut": "2",
    "--data": "{folder}/nothing.txt",
    "--deadline": "0.1",
    "--device": "board",
    "--device-budget-j": "7",
    "--device-energy": "round",
    "--device-frequencies": "all",
    "--device-weight": "0.6",
    "--devices": "2",
    "--downlink": "{folder}/nothing.json",
    "--downlink-mbps": "33",
    "--dry-run": "--dry-run",
    "--dtype": "float32",
    "--quantization": "nf4",
    "--energy": "busy",
    "--fleets": "3",
    "--for-plan": "{data}/fleet.toml",
    "--frequencies": "3",
    "--frequency-mhz": "900",
    "--from-db": "--from-db",
    "--idle": "5",
    "--key": "{folder}/nobody.secret",
    "--intervals": "bootstrap",
    "--law": "power_law",
    "--learnt": "--learnt",
    "--link": "nowhere",
    "--load-command": "true",
    "--local-epochs": "3",
    "--error-feedback": "--error-feedback",
    "--keep-checkpoints": "2",
    "--learning-rate": "0.01",
    "--lr-schedule": "linear",
    "--warmup-steps": "1",
    "--weight-decay": "0.1",
    "--accumulate": "3",
    "--max-grad-norm": "0.1",
    "--autocast": "bfloat16",
    "--eval-data": "{folder}/nothing.jsonl",
    "--eval-share": "0.3",
    "--eval-every": "2",
    "--patience": "2",
    "--max-steps": "2",
    "--epochs": "0.01",
    "--participants": "1",
    "--cuts": "device-1=2",
    "--local": "--local",
    "--lora-alpha": "32",
    "--dora": "--dora",
    "--lora-dropout": "0.1",
    "--lora-rank": "4",
    "--lora-rank-pattern": "q_proj=3",
    "--rslora": "--rslora",
    "--lora-targets": "q_proj",
    "--max-device-energy": "0.4",
    "--max-fleet-energy": "0.9",
    "--max-server-energy": "0.5",
    "--max-server-power": "33",
    "--memory-budget-gib": "0.41",
    "--memory-mhz": "1000",
    "--message-bytes": "4096",
    "--memory-frequencies": "all",
    "--messages": "5",
    "--min-accuracy": "0.9",
    "--min-device-layers": "2",
    "--model": "gpt2",
    "--name": "other",
    "--optimizer": "adamw",
    "--out": "{folder}/other",
    "--packing": "--packing",
    "--parallel": "--parallel",
    "--pareto": "--pareto",
    "--pretrain": "3",
    "--plan": "nothing",
    "--platform": "simulated:orin-nx:m",
    "--plot": "{folder}/plot.svg",
    "--power-mode": "15W",
    "--power-per-segment": "--power-per-segment",
    "--rail": "VDD",
    "--readonly": "--readonly",
    "--reference": "100",
    "--repeats": "3",
    "--report-to": "csv",
    "--resume": "--resume",
    "--rounds": "3",
    "--rtt-ms": "40",
    "--run": "nothing",
    "--samples": "--samples",
    "--save-every": "1",
    "--scenario": "card-letter",
    "--scheme": "sft",
    "--seed": "7",
    "--seeds": "2",
    "--segment": "layer",
    "--sensitivity": "--sensitivity",
    "--seq": "24",
    "--serve": "--serve",
    "--server": "nobody",
    "--server-key": "{folder}/nobody.public",
    "--server-sharing": "batched",
    "--steps": "3",
    "--superseded": "--superseded",
    "--sittings": "2",
    "--task": "ffffffff",
    "--threads": "2",
    "--tokenizer": "{folder}/nothing.json",
    "--train-on": "completion",
    "--uplink-mbps": "33",
    "--weight": "0.9",
    "--whole-step": "--whole-step",
    "--rehearsal": "--no-rehearsal",
    "--wire-dtype": "float16",
    "--with-dependents": "--with-dependents",
}
# It is in the base: what is tried is to leave it out.
LEFT_OUT = {"--from-db": ""}
BASES = (
    Base(name="plan", words=(*FROM_DB, *RATES), values=LEFT_OUT),
    Base(
        name="plan of two devices",
        words=(*FROM_DB, "--device", "second", *RATES),
        values={"--device": "gpu", **LEFT_OUT},
    ),
    Base(
        name="plan on a channel",
        words=(*FROM_DB, "--channel", "good", "--rounds", "2"),
        values={"--rounds": "4", **LEFT_OUT},
    ),
    Base(name="plan on a stored link", words=(*FROM_DB, "--link", "lab"), values=LEFT_OUT),
    Base(
        name="plan in parallel",
        words=(*FROM_DB, "--device", "second", "--scheme", "sft", *RATES),
        values={"--energy": "round", "--scheme": "", **LEFT_OUT},
    ),
    Base(
        name="plan of a file over calibrated devices",
        words=("card", "plan", "--from-db", "--scenario", "{data}/fleet.toml"),
        values={"--from-db": "", "--scenario": "{data}/shared.toml", "--server": "board"},
    ),
    Base(
        name="plan of a file in parallel",
        words=("card", "plan", "--from-db", "--scenario", "{data}/shared.toml"),
        values={
            "--from-db": "",
            "--scenario": "{data}/fleet.toml",
            "--scheme": "card",
            "--energy": "round",
            "--server": "board",
        },
    ),
    Base(
        name="plan of a scenario",
        words=("card", "plan", "--scenario", "card-letter"),
        values={"--energy": "round", "--scenario": "{data}/other.toml", "--max-server-power": "1"},
    ),
    Base(
        name="plan of a scenario in parallel",
        words=("card", "plan", "--scenario", "card-letter", "--scheme", "sft"),
        values={"--energy": "round", "--scheme": "card", "--deadline": "60", "--scenario": "{data}/other.toml"},
    ),
    Base(
        name="simulate",
        words=("card", "simulate", "--rounds", "2", "--channel", "good"),
        values={"--scenario": "{data}/other.toml"},
        store=False,
    ),
    Base(name="reproduce", words=("card", "reproduce", "--rounds", "2"), store=False),
    Base(name="predict", words=("calibrate", "predict", "--device", "gpu", "--frequency-mhz", "1500")),
    Base(name="fit", words=("calibrate", "fit", "--device", "gpu")),
    Base(name="show fits", words=("calibrate", "show"), values={"--device": "second"}),
    Base(
        name="report of devices",
        words=("calibrate", "report", "--out", "{folder}/page.html"),
        file="page.html",
        # Where it is written, which the file is read from.
        values={"--out": None},
    ),
    Base(name="export", words=("calibrate", "export", "--out", "{folder}/all.cardlab"), values={"--out": None}),
    Base(
        name="meter",
        words=("calibrate", "meter", "--device", "gpu", "--reference", "{data}/meter.csv"),
        values={"--reference": "{data}/other-meter.csv"},
    ),
    Base(
        name="import",
        words=("calibrate", "import", "{data}/sweep.csv", "--device", "lab-card"),
        values={"--device": "another"},
    ),
    Base(
        name="link",
        words=("card", "link", "{data}/up.json", "--name", "field"),
        values={"--downlink": "{data}/down.json", "--energy": "--energy"},
    ),
    Base(
        name="links",
        words=("card", "link"),
        values={"--serve": "--serve --idle 0.3 --bind 127.0.0.1:5999", "--energy": "--energy"},
    ),
    Base(
        name="report of a plan",
        words=("card", "report", "--out", "{folder}/page.html"),
        file="page.html",
        values={"--out": None},
    ),
    Base(name="plans", words=("card", "plans")),
    Base(name="runs", words=("card", "runs")),
    Base(name="stored links", words=("card", "links")),
    Base(name="profiles", words=("profile-device", "list")),
    Base(
        name="models",
        words=("profile-device", "models"),
        # All of them take minutes.
        values={"--supported": "--supported --type qwen3", "--type": "nobody"},
        store=False,
    ),
    Base(name="doctor", words=("profile-device", "doctor", "--platform", "simulated:orin-nano")),
    Base(name="selftest", words=("profile-device", "selftest", "--platform", "simulated:orin-nano"), store=False),
    Base(
        name="agent",
        words=("profile-device", "agent", "--out", "{folder}/agent.pyz"),
        values={"--out": None},
        file="agent.pyz",
        store=False,
    ),
    Base(name="show a profile", words=("profile-device", "show")),
    Base(name="profile", words=(*PROFILE, *SHORT)),
    Base(
        name="profile with a whole step",
        words=(*PROFILE, "--frequencies", "max"),
        values={"--whole-step": "--no-whole-step"},
    ),
    Base(name="profile as found", words=(*PROFILE, "--readonly", "--no-whole-step"), values={"--readonly": ""}),
    Base(
        name="profile of a load",
        words=(
            *("profile-device", "--platform", "simulated:orin-nano:m", "--load-command", "true"),
            *("--frequencies", "max", "--repeats", "2"),
        ),
        values={"--load-command": "sleep", "--whole-step": "--no-whole-step"},
        steady=False,
    ),
    Base(
        name="run here",
        words=(
            *("card", "run", "--local", "--model", "tiny-llama", "--cut", "2", "--rounds", "2", "--batch", "2"),
            *("--seq", "32", "--dtype", "float32", "--out", "{folder}/out"),
        ),
        values={
            "--local": "",
            "--model": "{data}/tiny.json",
            "--cut": "1",
            "--dtype": "bfloat16",
            "--wire-dtype": "bfloat16",
            "--optimizer": "sgd",
            "--link": "10mbit",
            # Where it is written, how fast it is computed, and how long a silence is borne: nothing was silent.
            # It is written beside the answer: tests/workflows/test_reporting.py.
            "--report-to": None,
            "--out": None,
            "--threads": None,
            "--silence": None,
            "--cuts": "device-1=1",
            # A round that keeps it is the same round: tests/split/test_strengths.py.
            "--deadline": None,
            # It writes beside the answer: tests/split/test_saved.py.
            "--save-every": None,
        },
        timed=TIMES,
    ),
    Base(
        name="server of a run",
        words=(
            *(
                "card",
                "run",
                "server",
                "--bind",
                f"127.0.0.1:{PORT}",
                "--model",
                "tiny-llama",
                "--cut",
                "2",
                "--wait",
                "4",
            ),
            *("--rounds", "2", "--batch", "2", "--seq", "32", "--dtype", "float32", "--out", "{folder}/out"),
        ),
        values={
            "--model": "{data}/tiny.json",
            "--cut": "1",
            "--dtype": "bfloat16",
            "--wire-dtype": "bfloat16",
            "--optimizer": "sgd",
            # It is written beside the answer: tests/workflows/test_reporting.py.
            "--report-to": None,
            "--out": None,
            "--threads": None,
            "--silence": None,
            "--save-every": None,
            # How long it waits for a device: one comes. It alone is no other run in parallel; more might have come.
            "--wait": None,
            "--parallel": None,
            # A round that keeps it is the same round, and more devices might have come: tests/split/test_strengths.py.
            "--deadline": None,
            "--participants": None,
            # It names the machine of the stored run: tests/split/test_commands.py.
            "--name": None,
        },
        timed=TIMES,
        partner=a_device,
    ),
    Base(
        name="device of a run",
        words=("card", "run", "device", "--server", f"127.0.0.1:{PORT}", "--dtype", "float32", "--wait", "15"),
        values={
            "--dtype": "bfloat16",
            "--server": "127.0.0.1:1",
            "--shard": "2/2",
            "--optimizer": "sgd",
            "--threads": None,
            "--silence": None,
            "--wait": None,
        },
        timed=TIMES,
        partner=a_server,
        store=False,
    ),
    Base(
        name="adapters of a run",
        before=(
            *("card", "run", "--local", "--model", "tiny-llama", "--cut", "2", "--rounds", "1", "--batch", "2"),
            *("--seq", "32", "--dtype", "float32", "--out", "{folder}/out"),
        ),
        words=("card", "run", "export", "--out", "{folder}/out"),
        # Where it is written.
        values={"--to": None},
        store=False,
    ),
    Base(name="keys", words=("card", "run", "keys", "pair", "--out", "{folder}"), store=False),
    Base(
        name="validate",
        before=(
            *("card", "run", "--local", "--model", "tiny-llama", "--cut", "2", "--rounds", "2", "--batch", "2"),
            *("--seq", "32", "--dtype", "float32", "--out", "{folder}/out"),
        ),
        words=("card", "validate"),
        timed=TIMES,
    ),
    # What the kernel answers changes from moment to moment.
    Base(name="capture", words=("profile-device", "capture"), store=False, timed=r"^sysfs$"),
    Base(
        name="accuracy of codecs",
        words=(
            *("card", "accuracy", "--steps", "2", "--seeds", "1", "--pretrain", "2", "--batch", "2", "--seq", "16"),
            *("--codec", "dense:8", "--codec", "dense:4", "--codec", "dense:2"),
        ),
        values={"--codec": "dense:6", "--cut": "1", "--steps": "3", "--seeds": "2", "--pretrain": "3"},
        timed=TIMES,
    ),
    Base(name="contents", words=("cardlab", "db", "info")),
    Base(name="check", words=("cardlab", "db", "check")),
    # A permission: of what nothing rests on, and of what something does.
    Base(
        name="prune a device",
        words=("cardlab", "db", "prune", "--device", "second", "--yes"),
        values={"--superseded": None, "--with-dependents": None},
    ),
    Base(
        name="prune a device with what rests on it",
        words=("cardlab", "db", "prune", "--device", "gpu", "--with-dependents", "--yes"),
        values={"--with-dependents": "", "--superseded": None, "--device": "second"},
    ),
    Base(
        name="prune fits",
        words=("cardlab", "db", "prune", "--superseded", "--yes"),
        values={"--superseded": "", "--device": "gpu", "--before": "2030-01-01"},
    ),
)


def build(database: Path, data: Path) -> None:
    """A database with a server, two boards, a link, a superseded fit and a plan, and files to import."""
    with whole(database) as store:
        fit_store(store, device=SERVER.key, created_at="2026-11-22T10:10:00.000000Z")
        add_device(store, replace(BOARD, key="jetson:0002", name="second"), seconds=0.05, power=9.0)
        store.links.add(
            Link(
                uid="1" * 32,
                name="lab",
                uplink_bps=2e7,
                downlink_bps=4e7,
                provenance=Provenance.of("imported"),
                measured_at="2026-11-21T10:00:00.000000Z",
            )
        )
    assert command(*FROM_DB, *RATES, "--db", str(database)).code == 0
    tiny = json.loads((ROOT / "profilers" / "runtime" / "configs" / "tiny-llama.json").read_text("utf-8"))
    (data / "tiny.json").write_text(json.dumps({**tiny, "hidden_size": 32}))
    (data / "sweep.csv").write_text("frequency_mhz,power_w\n600,30\n900,41\n1200,58\n1500,80\n")
    sums = {"seconds": 10.0, "bytes": 5e7, "bits_per_second": 4e7}
    start: dict[str, object] = {"version": "iperf 3.12"}
    end = {"sum_received": sums, "sum_sent": sums, "streams": []}
    for name, reverse in (("up", 0), ("down", 1)):
        start["test_start"] = {"protocol": "TCP", "reverse": reverse, "num_streams": 1}
        (data / f"{name}.json").write_text(json.dumps({"start": start, "intervals": [], "end": end}))
    letter = (ROOT / "card" / "scenarios" / "card-letter.toml").read_text("utf-8")
    assert letter.count("weight = 0.2") == letter.count("cores = 3072") == 1
    # A weight changes no plan in parallel, which says so; the server's cores change all.
    (data / "other.toml").write_text(
        letter.replace("weight = 0.2", "weight = 0.3").replace("cores = 3072", "cores = 2816")
    )
    parties = '[server]\nname = "gpu"\nmemory_bytes = 8e9\n'
    for name in ("board", "second"):
        parties += f'[[devices]]\nname = "{name}"\nuplink_bps = 5e7\ndownlink_bps = 8e7\n'
    (data / "fleet.toml").write_text(parties)
    (data / "shared.toml").write_text('scheme = "sft"\n' + parties)
    for name, factor in (("meter", 1.04), ("other-meter", 1.08)):
        rows = "".join(f"{power_w(f)},{factor * power_w(f) + 0.01 * i % 3}\n" for i, f in enumerate(MEASURED))
        (data / f"{name}.csv").write_text("reference_w,sensor_w\n" + rows)


# A real command in each window of a virtual sweep takes a minute; the rest of its options are refused at once.
SLOW = (
    "run here",
    "server of a run",
    "device of a run",
    "validate",
    "accuracy of codecs",
    "profile of a load",
    "plan of a scenario in parallel",
    "reproduce",
)


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> tuple[Path, Path]:
    """The database and the files."""
    folder = tmp_path_factory.mktemp("matrix")
    with pytest.MonkeyPatch.context() as patch:
        surround(patch, folder)
        build(folder / "kept.db", folder)
    return folder / "kept.db", folder


def neither(bases: tuple[Base, ...], kept: tuple[Path, Path]) -> list[str]:
    """Options without effect, and refusals that name no remedy."""
    database, folder = kept
    found, count = [], 0
    with pytest.MonkeyPatch.context() as patch:
        # A command that is not told a database keeps one where it is: never the one of who runs the tests.
        patch.chdir(folder)
        for base in bases:
            for cell in cells(base, VALUES, folder / "work", database):
                count += 1
                if cell.outcome not in ("changes", "refused"):
                    found.append(f"{cell.base}: {cell.flag}: {cell.outcome}: {cell.said}")
    print(f"options tried beside a command: {count}, without effect and not refused: {len(found)}")
    return found


@pytest.mark.torch
@pytest.mark.parametrize("base", [b for b in BASES if b.name not in SLOW], ids=lambda b: b.name.replace(" ", "-"))
def test_every_option_changes_the_answer_or_is_refused(kept, base):
    assert neither((base,), kept) == []


@pytest.mark.torch
@pytest.mark.accept
def test_every_option_of_every_command_changes_the_answer_or_is_refused(kept):
    assert neither(BASES, kept) == []


def test_no_command_is_left_out_of_the_matrix():
    tried = {tuple(base.words[:2]) if base.words[1][:2] != "--" else (base.words[0],) for base in BASES}
    tried |= {tuple(base.words[:3]) for base in BASES if base.words[0] == "cardlab" or base.words[1] == "run"}
    assert set(all_commands()) - tried == WITHOUT_OPTIONS
    for words in WITHOUT_OPTIONS:
        assert {f for f in options_of(words) if f.startswith("--")} <= {*SAME_FOR_ALL, *HOW}, words


# Without options of their own, there is nothing to try.
WITHOUT_OPTIONS = {
    ("calibrate", "learn"),
    ("calibrate", "merge"),
    ("profile-device", "restore"),
    ("cardlab", "db", "upgrade"),
    ("cardlab", "db", "vacuum"),
}
