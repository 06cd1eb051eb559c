"""The commands whose answers are kept, in groups; a group shares one empty folder and its cardlab.db.

A case is its name and what a person would type. `{plan[plan_id]}` in it is filled from the document of an
earlier case of the same group.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
FLEET = HERE / "answers" / "fleet.zip"
SCENARIOS = ("llama-3.2-1b", "llama-3.2-1b-tight", "llama-3.2-1b-waiting")


@dataclass(frozen=True)
class Case:
    """One command; `text`: keep the lines it prints and not a JSON document; `code`: how it must end."""

    name: str
    words: tuple[str, ...]
    text: bool = False
    code: int = 0


@dataclass(frozen=True)
class Group:
    """Commands run one after the other in one folder; `torch`: they need the models extra."""

    name: str
    cases: tuple[Case, ...]
    prepare: Callable[[Path], None] = lambda folder: None
    torch: bool = False


def case(name: str, line: str, *, text: bool = False, code: int = 0) -> Case:
    """`line` is split at spaces: no word here has one."""
    return Case(name, tuple(line.split()), text, code)


def _scenario_files(folder: Path) -> None:
    letter = (HERE.parents[1] / "card" / "scenarios" / "card-letter.toml").read_text("utf-8")
    assert letter.count('scheme = "card"') == 1
    shared = letter.replace('scheme = "card"', 'scheme = "sft"')
    curve = "accuracy_limit = 0.9\naccuracy_loss = 0.5\naccuracy_rate = 12.0\n"
    speed = "encode_bytes_per_s = 4e8\ndecode_bytes_per_s = 1e9\n"
    serial = "[sft]\nbandwidth_hz = 2e7\nrates = [0.12, 0.4]\naccuracy_target = 0.75\n"
    batched = (
        '[sft]\nserver_sharing = "batched"\nsharing_times = [1.0, 1.6]\nblocks = "common"\nrates = [0.1, 0.3]\n'
        'spectrum = "linear"\n'
    )
    head, *devices, rest = re.split(r"(?=^\[\[devices\]\]|^\[objective\])", shared, flags=re.MULTILINE)
    radio = '[link]\nchannel = "poor"\nfading = "none"\nsnr_mapping = "shannon-gap:3"\nseed = 3\n'
    (folder / "shared.toml").write_text(shared + serial + curve + speed)
    (folder / "batched.toml").write_text(head + devices[0] + devices[3] + rest + batched + speed)
    without_rates = "".join(
        line for line in (head + devices[0] + devices[3] + rest).splitlines(True) if "link_bps" not in line
    )
    (folder / "radio.toml").write_text(without_rates + radio + serial + curve)
    (folder / "wrong.toml").write_text(shared + "[sft]\nrates = [0.1, 1.2]\n")


def _sweep_files(folder: Path) -> None:
    """Measured elsewhere: exact laws with a ripple in place of noise, so that nothing is drawn."""
    clocks = list(range(400, 1901, 100))
    ripple = [1.0 + 0.004 * math.sin(3.0 * i) for i in range(len(clocks))]
    power = [20.0 + 12e-3 * f + 14e-9 * f**3 for f in clocks]
    rows = "".join(
        f"{f},{p * r:.6f},{(0.004 + 9.0 / f) / r:.9f}\n" for f, p, r in zip(clocks, power, ripple, strict=True)
    )
    (folder / "sweep.csv").write_text("# by hand\nfrequency_mhz,power_w,latency_s\n" + rows)
    (folder / "power.csv").write_text(
        "frequency_mhz,power_w\n"
        + "".join(f"{f},{9.0 + 0.4 * p * r:.6f}\n" for f, p, r in zip(clocks, power, ripple, strict=True))
    )
    (folder / "times.csv").write_text(
        "frequency_mhz,latency_s\n"
        + "".join(f"{f},{(0.001 + 21.0 / f) * r:.9f}\n" for f, r in zip(clocks, ripple, strict=True))
    )
    table = [
        (w, m, f, 8.0 + 0.002 * m + scale * 9e-3 * f * r)
        for w, scale in (("gemm", 1.0), ("copy", 0.4))
        for m in (800, 1600)
        for f, r in zip(clocks[::2], ripple, strict=False)
    ]
    (folder / "labelled.csv").write_text(
        "workload,memory_frequency_mhz,rail,frequency_hz,power_w\n"
        + "".join(f"{w},{m},soc,{f}e6,{p:.6f}\n" for w, m, f, p in table)
    )
    cache: dict[str, dict[str, float | str]] = {
        str(f): {"nvml_gr_clock": f, "core_freq": f - 2.5, "nvml_power": 31.0 + 2.1e-8 * f**3 * r, "time": 6e3 / f * r}
        for f, r in zip(clocks, ripple, strict=True)
    }
    cache["failed"] = {"nvml_gr_clock": 2000, "time": "CompilationFailedConfig"}
    tuned = json.dumps({"device_name": "A", "kernel_name": "vector_add", "cache": cache})
    (folder / "tuned.json").write_text(tuned[:-2] + ",")
    results = [
        {
            "configuration": {"nvml_gr_clock": f},
            "times": {},
            "measurements": [{"name": "ps_power", "value": 12.0 + 3e-8 * f**3}, {"name": "time", "value": 9.0}],
        }
        for f in clocks
    ]
    (folder / "results.json").write_text(json.dumps({"schema_version": "1.0.0", "results": results}))
    pairs = "".join(f"{p:.4f},{1.05 * p * r + 1.5:.4f}\n" for p, r in zip(power, ripple, strict=True))
    (folder / "pairs.csv").write_text("reference_w,sensor_w\n" + pairs)
    (folder / "wrong.csv").write_text("frequency_mhz,power_w\n400,ten\n")
    (folder / "twice.csv").write_text("frequency_mhz,power_w\n400,10\n400,11\n")
    (folder / "misspelt.csv").write_text("frequency_mhz,pover_w\n400,10\n")


def _fleet_files(folder: Path) -> None:
    shutil.copy(FLEET, folder / "fleet.zip")
    (folder / "cut.zip").write_bytes(FLEET.read_bytes()[:2000])
    up = {"sum_received": {"bits_per_second": 4.2e7}, "streams": [{"sender": {"mean_rtt": 12000}}]}
    down = {"sum_received": {"bits_per_second": 8.7e7}, "streams": [{"sender": {"mean_rtt": 14000}}]}
    for name, end, backward in (("up.json", up, 0), ("down.json", down, 1)):
        (folder / name).write_text(json.dumps({"start": {"test_start": {"reverse": backward}}, "end": end}))


TINY = "--model tiny-llama --batch 16 --seq 1024"
LARGE = "--model llama-3.2-1b --batch 1 --seq 512"
ABLE = "--device agx-orin-1 --device orin-nx"
RATES = "--uplink-mbps 50 --downlink-mbps 100"
BOARDS = ("agx-orin-1", "agx-orin-2", "agx-orin-3", "orin-nx", "orin-nano")

SCENARIO = Group(
    "scenario",
    (
        case("letter", "card plan --scenario card-letter --json"),
        case("letter_text", "card plan --scenario card-letter --pareto --sensitivity", text=True),
        case("letter_all", "card plan --scenario card-letter --rounds 3 --channel poor --pareto --sensitivity --json"),
        case(
            "letter_weight", "card plan --scenario card-letter --weight 0.8 --local-epochs 2 --compression 0.5 --json"
        ),
        case("letter_delay_only", "card plan --scenario card-letter --weight 1 --energy round --json"),
        case("letter_energy_only", "card plan --scenario card-letter --weight 0 --energy above_idle --json"),
        case("letter_deadline", "card plan --scenario card-letter --deadline 120 --weight 0 --json"),
        case("letter_deadline_too_short", "card plan --scenario card-letter --deadline 0.1 --json", code=1),
        case("letter_layers", "card plan --scenario card-letter --min-device-layers 3 --json"),
        case("letter_caps", "card plan --scenario card-letter --max-server-power 20 --max-server-energy 500 --json"),
        *(case(f"scenario_{n.replace('.', '_')}", f"card plan --scenario {n} --json") for n in SCENARIOS),
        case(
            "scenario_rates", f"card plan --scenario llama-3.2-1b {RATES} --weight 0.5 --max-device-energy 900 --json"
        ),
        case("letter_sft", "card plan --scenario card-letter --scheme sft --json"),
        case("letter_sft_text", "card plan --scenario shared.toml", text=True),
        case("shared", "card plan --scenario shared.toml --rounds 2 --json"),
        case("shared_channel", "card plan --scenario shared.toml --channel good --min-accuracy 0.85 --json"),
        case("batched", "card plan --scenario batched.toml --rounds 2 --json"),
        case("radio", "card plan --scenario radio.toml --json"),
        case("wrong_scenario", "card plan --scenario wrong.toml --json", code=1),
        case("no_scenario", "card plan --scenario nowhere --json", code=1),
        case("neither", "card plan --json", code=2),
        case("weight_too_large", "card plan --scenario card-letter --weight 3 --json", code=1),
        case("simulate", "card simulate --rounds 5 --channel good --channel poor --json"),
        case("simulate_fleets", "card simulate --rounds 4 --fleets 3 --devices 9 --weight 0.5 --json"),
        case("simulate_text", "card simulate --rounds 3 --channel normal", text=True),
        case("simulate_sft", "card simulate --scheme sft --rounds 1 --channel poor --json"),
        case("simulate_tight", "card simulate --scenario llama-3.2-1b-tight --rounds 3 --json"),
        case("reproduce", "card reproduce --rounds 2 --json"),
    ),
    _scenario_files,
)

POWER_LAWS = ("constant", "cubic", "static_cubic", "static_linear_cubic", "power_law", "pure_power_law", "ridge",
              "measured")  # fmt: skip
TIME_LAWS = ("constant", "inverse", "affine_inverse", "measured")

IMPORTS = Group(
    "imports",
    (
        case("import_csv", "calibrate import sweep.csv --device card --json"),
        case("import_labelled", "calibrate import labelled.csv --device board --json"),
        case("import_tuned", "calibrate import tuned.json --device tuned --json"),
        case("import_results", "calibrate import results.json --device published --json"),
        case("import_not_a_number", "calibrate import wrong.csv --device card --json", code=1),
        case("import_twice", "calibrate import twice.csv --device card --json", code=1),
        case("import_misspelt", "calibrate import misspelt.csv --device card --json", code=1),
        case("import_no_file", "calibrate import nothing.csv --device card --json", code=1),
        case("fit_imports", "calibrate fit --json"),
        case("import_power", "calibrate import power.csv --device watts --json"),
        case("import_times", "calibrate import times.csv --device seconds --json"),
        *(case(f"power_{law}", f"calibrate fit --device watts --law {law} --json") for law in POWER_LAWS),
        *(case(f"time_{law}", f"calibrate fit --device seconds --law {law} --json") for law in TIME_LAWS),
        case("law_of_another_quantity", "calibrate fit --device seconds --law cubic --json", code=2),
        case("law_unknown", "calibrate fit --law square --json", code=2),
        case("fit_card", "calibrate fit --device card --json"),
        case("show_card_text", "calibrate show --device card", text=True),
        case("show_board", "calibrate show --device board --json"),
        case("predict_card", "calibrate predict --device card --frequency-mhz 1234.5 --json"),
        case("predict_outside", "calibrate predict --device card --frequency-mhz 2600 --json"),
        case("predict_board", "calibrate predict --device board --frequency-mhz 950 --memory-mhz 1600 --json"),
        case("predict_text", "calibrate predict --device tuned --frequency-mhz 950", text=True),
        case("predict_no_device", "calibrate predict --device nobody --frequency-mhz 950 --json", code=1),
        case("meter", "calibrate meter --reference pairs.csv --device card --rail board --json"),
        case("fit_with_meter", "calibrate fit --device card --json"),
        case("export", "calibrate export --out out.zip --json"),
        case("merge_elsewhere", "calibrate merge out.zip --db other.db --json"),
        case("merge_again", "calibrate merge out.zip --db other.db --json"),
        case("show_elsewhere", "calibrate show --device tuned --db other.db --json"),
        case("info_imports", "cardlab db info --json"),
        case("check_imports", "cardlab db check --json"),
        case("prune_superseded", "cardlab db prune --superseded --json"),
        case("prune_really", "cardlab db prune --superseded --yes --no-backup --json"),
        case("upgrade_current", "cardlab db upgrade --json"),
        case("report_imports", "calibrate report --out page.html --device card --json"),
    ),
    _sweep_files,
)

PLAN = f"card plan --from-db {TINY} {RATES} --json"

FLEETS = Group(
    "fleet",
    (
        case("fleet_merge", "calibrate merge fleet.zip --json"),
        case("fleet_merge_cut", "calibrate merge cut.zip --json", code=1),
        case("fleet_runs", "profile-device show --all --json"),
        case("fleet_show", "profile-device show --json"),
        case("fleet_unfitted_plan", PLAN, code=1),
        case("fleet_fit_text", "calibrate fit", text=True),
        case("fleet_fits_of_a_board", "calibrate show --device orin-nx --json"),
        case("fleet_constants_text", "calibrate show --device orin-nano", text=True),
        case("fleet_predict", "calibrate predict --device rtx-4060-ti --frequency-mhz 1500 --json"),
        case("fleet_predict_segment", "calibrate predict --device orin-nx --frequency-mhz 600 --segment layer --json"),
        case("fleet_info", "cardlab db info --json"),
        case("fleet_check", "cardlab db check --json"),
        case("plan", PLAN),
        case("plan_text", f"card plan --from-db {TINY} {RATES} --pareto", text=True),
        case("plan_epochs", f"{PLAN} --local-epochs 5 --weight 0.5 --energy above_idle --rounds 2"),
        case("plan_round_energy", f"{PLAN} --local-epochs 5 --energy round --pareto --sensitivity"),
        case("plan_deadline", f"{PLAN} --weight 0 --deadline 12 --confidence 0.9"),
        case("plan_no_way", f"{PLAN} --deadline 0.001", code=1),
        case("plan_one_device", f"{PLAN} --server rtx-4060-ti --device orin-nx --wire-dtype float16 --compression 0.3"),
        case("plan_caps", f"{PLAN} --max-server-power 60 --max-device-energy 400 --min-device-layers 2"),
        case("plan_channel", f"card plan --from-db {TINY} --channel poor --rounds 3 --json"),
        case("plan_large", f"card plan --from-db {LARGE} {RATES} {ABLE} --weight 0.7 --json"),
        case("plan_report", "card report --out plan.html --json"),
        case("no_such_option", f"card plan --from-db {LARGE} {RATES} --optimizer adamw --json", code=2),
        case("plan_no_such_model", f"card plan --from-db --model gpt2 {RATES} --json", code=1),
        case("plan_sft", f"{PLAN} --scheme sft --local-epochs 3"),
        case("plan_sft_compressed", f"{PLAN} --scheme sft --compression 0.2 --rounds 2"),
        case("plan_sft_batched", f"{PLAN} --scheme sft --server-sharing batched --device orin-nx --device orin-nano"),
        case("plan_sft_text", f"card plan --from-db {TINY} {RATES} --scheme sft --compression 0.2", text=True),
        case("link", "card link up.json --downlink down.json --name hall --json"),
        case("links", "card link --json"),
        case("plan_link", f"card plan --from-db {TINY} --link hall --weight 0.6 --json"),
        case("plan_no_link", f"card plan --from-db {TINY} --link cellar --json", code=1),
        case("fleet_report", "calibrate report --out fleet.html --device orin-nano --json"),
        case("fleet_prune", "cardlab db prune --device orin-nano --json", code=1),
        case("fleet_prune_all", "cardlab db prune --device orin-nano --with-dependents --json"),
        case("fleet_prune_samples", "cardlab db prune --samples --device orin-nx --json"),
        case("fleet_prune_nothing", "cardlab db prune --samples --json", code=2),
        case("fleet_export", "calibrate export --out all.zip --json"),
        case("fleet_info_text", "cardlab db info", text=True),
        case("validate_nothing", "card validate --json", code=1),
    ),
    _fleet_files,
)

SIM = "--platform simulated:"

PROFILES = Group(
    "profiles",
    (
        case("models", "profile-device models --json"),
        case("profile_server", f"profile-device {TINY} {SIM}rtx-4060-ti --repeats 5 --json"),
        case(
            "profile_paper_server", f"profile-device {TINY} {SIM}rtx-4060 --frequencies 300MHz,1200MHz,2400MHz --json"
        ),
        *(
            case(f"profile_{b.replace('-', '_')}", f"profile-device {TINY} {SIM}{b} --frequencies {f} --json")
            for b, f in zip(BOARDS, ("4", "max", "280MHz,700MHz", "3", "all"), strict=True)
        ),
        case(
            "profile_llama",
            f"profile-device {LARGE} {SIM}agx-orin-1 --frequencies max --repeats 5 --lora-rank 16 --lora-alpha 32 "
            "--lora-targets q_proj,k_proj,v_proj,o_proj --optimizer adamw --json",
        ),
        case(
            "profile_qwen",
            f"profile-device --model qwen2.5-0.5b --batch 2 --seq 256 {SIM}rtx-4060 --frequencies 2 --repeats 3 "
            "--dtype float32 --checkpointing --attention eager --adapter-dtype bfloat16 --json",
        ),
        case(
            "profile_gpt2",
            f"profile-device --model gpt2 --seq 64 {SIM}orin-nano --frequencies max --dtype float16 --name bench "
            "--memory-budget-gib 2 --repeats 3 --json",
        ),
        case("profile_text", f"profile-device {TINY} {SIM}orin-nx --frequencies 2 --name second", text=True),
        case("dry_run", f"profile-device {LARGE} {SIM}rtx-4060-ti --frequencies 12 --budget 30m --dry-run --json"),
        case("dry_run_text", f"profile-device {TINY} {SIM}orin-nx --dry-run", text=True),
        case("profile_runs", "profile-device show --all --json"),
        case("profile_show", "profile-device show {profile_qwen[run_id]} --json"),
        case("profile_show_text", "profile-device show {profile_server[run_id]}", text=True),
        case("no_such_run", "profile-device show ffffffff --json", code=1),
        case("no_such_platform", f"profile-device {TINY} {SIM}abacus --json", code=2),
        case("no_such_model", f"profile-device --model no-such {SIM}orin-nx --json", code=1),
        case("no_such_clock", f"profile-device {TINY} {SIM}orin-nx --frequencies fast --json", code=2),
        case("profile_fit", "calibrate fit --device rtx-4060-ti --json"),
        case("predict_model", f"calibrate predict --device rtx-4060-ti --frequency-mhz 1500 {LARGE} --json"),
        case("profile_info", "cardlab db info --json"),
        case("profile_check", "cardlab db check --json"),
    ),
    torch=True,
)

RUN = "card run --local --model tiny-llama --batch 2 --seq 16 --dtype float32 --json"

LOCAL = Group(
    "local",
    (
        case("run", f"{RUN} --cut 2 --rounds 2 --local-epochs 2 --optimizer adamw --codec topk:0.2:8 --seed 3"),
        case("validate", "card validate --json"),
        case("run_info", "cardlab db info --json"),
        case("run_no_such_cut", f"{RUN} --cut 9", code=2),
    ),
    torch=True,
)

GROUPS = {group.name: group for group in (SCENARIO, IMPORTS, FLEETS, PROFILES, LOCAL)}

# What fleet.zip is made of; see answers_make.
FLEET_COMMANDS = (
    *(
        f"profile-device --model tiny-llama --batch {b} --seq 1024 {SIM}rtx-4060-ti --repeats 5 --json"
        for b in (16, 32)
    ),
    *(f"profile-device {TINY} {SIM}{board} --frequencies 3 --repeats 5 --json" for board in BOARDS),
    *(
        f"profile-device {LARGE} {SIM}{name} --frequencies {count} --repeats 5 --json"
        for name, count in (("rtx-4060-ti", 6), ("agx-orin-1", 4), ("orin-nx", 3))
    ),
)
