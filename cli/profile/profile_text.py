"""A profile as tables, and as the JSON document of the contract."""

from __future__ import annotations

from collections.abc import Sequence

from cardlab.cli.console import print_json, print_line, print_table
from cardlab.core.plain import Document
from cardlab.core.records.measurement import Profile
from cardlab.core.records.workload import EMBEDDING
from cardlab.core.text import NOT_MEASURED, data_size, milliseconds, percent, si
from cardlab.reports.views.profile import profile_document


def print_profile(profile: Profile, as_json: bool, more: Document | None = None) -> None:
    """A profile as JSON, with `more` keys where there are some, or as tables."""
    document = profile_document(profile) | (more or {})
    if as_json:
        print_json(document)
        return
    _print_head(document)
    if len(document["points"]) > 1 and document["task"] is not None:
        _print_sweep(document["points"])
    else:
        for point in document["points"]:
            _print_point(point)
    if document["cuts"]:
        _print_cuts(document["cuts"])
    _print_check(document["check"])
    off = [p["meter_systematic"] for p in document["points"] if p["meter_systematic"] is not None]
    if any(p["meter_calibration"] is not None for p in document["points"]):
        print_line(
            f"power: corrected by an external meter (calibrate meter) to {100 * max(off):.2g} %, one standard deviation"
        )
    elif off:
        print_line(
            f"power: its sensor may be off by {100 * max(off):.2g} % (one standard deviation), beside the intervals;"
            " an external meter tells: calibrate meter"
        )
    print_line(f"run {document['run_id'][:12]}, {'complete' if document['complete'] else 'incomplete'}")


def _print_head(document: Document) -> None:
    device, task, execution = document["device"], document["task"], document["execution"]
    origins = "+".join(document["provenance"]["origins"])
    print_line(f"{device['name']} ({device['model'] or device['platform']}), {origins}")
    if task is None:
        print_line(f"workload {document['workload']}")
        return
    lora = task["lora"]
    print_line(
        f"{task['model']}: {task['layers']} layers, {task['parameters']:,} parameters, "
        f"LoRA r={lora['rank']} on {', '.join(lora['targets'])} ({task['trainable_parameters']:,} trainable)"
    )
    kept = f" with {execution['quantization']} weights" if execution.get("quantization") else ""
    print_line(
        f"batch {task['batch']} x {task['sequence']} tokens, {execution['dtype']}{kept}, {execution['attention']}, "
        f"{execution['threads']} thread(s); forward {si(task['forward_flop'], 'FLOP')}, "
        f"LoRA backward {si(task['backward_flop'], 'FLOP')}"
    )
    for routed in task.get("routed_experts", ()):
        print_line(
            f"{routed['segment']}: {routed['active_experts']} of {routed['experts']} experts active per token; "
            "FLOPs and times are of the active ones, memory of all"
            + (f"; fused ones stay dense beside {execution['quantization']} maps" if kept else "")
        )
    for line in task["flop_disagreements"]:
        print_line(f"FLOP counts disagree: {line}")


def _print_point(point: Document) -> None:
    """One point in full."""
    state = "" if point["done"] else "cut short, "
    title = f"{state}frequency {si(point['frequency_hz'], 'Hz')}"
    if point["power_w"] is not None:
        title += f", power {si(point['power_w'], 'W')} on {point['rail']}"
        title += f", waiting {si(point['wait_power_w'], 'W')}"
    for reason in point["reasons"]:
        title += f"; {reason}"
    print_line()
    rows = [_segment_row(segment) for segment in point["segments"]]
    columns = (
        "segment",
        "count",
        "forward (ms)",
        "+-",
        "backward (ms)",
        "+-",
        "forward work",
        "backward work",
        "forward rate",
        "energy (J)",
        "flags",
    )
    print_table(title, columns, rows)
    for m in point["other"]:
        value = milliseconds(m["value"]) + " ms" if m["unit"] == "s" else data_size(m["value"])
        words = " ".join(str(w) for w in (m["segment"], m["phase"], m["quantity"]) if w)
        print_line(f"  {words}: {value} {' '.join(m['flags'])}".rstrip())


def _print_sweep(points: Sequence[Document]) -> None:
    """Many points, a row each, by frequency."""
    # The embedding is a lookup, whose time hardly depends on the frequency.
    shown = [x["segment"] for x in points[0]["segments"] if x["segment"] != EMBEDDING]
    columns = (
        "frequency",
        "requested",
        "power",
        "waiting",
        "temperature",
        *(f"{s} {p} (ms)" for s in shown for p in ("fwd", "bwd")),
        "flags",
    )
    rows = []
    for point in sorted(points, key=lambda p: (p["requested_hz"] or 0.0, p["index"])):
        times = {s["segment"]: s for s in point["segments"]}
        heat = point["temperature_c"]
        flags = [*(["anchor"] if point["anchor"] else []), *([] if point["done"] else ["cut short"])]
        rows.append(
            (
                si(point["frequency_hz"], "Hz"),
                si(point["requested_hz"], "Hz"),
                si(point["power_w"], "W"),
                si(point["wait_power_w"], "W"),
                NOT_MEASURED if heat is None else f"{heat:.1f} C",
                *(milliseconds(times[s][f"{p}_s"]) for s in shown for p in ("forward", "backward")),
                "; ".join((*flags, *point["reasons"])),
            )
        )
    print_line()
    # Measured once a session, at its first point.
    idle = next((p["idle_power_w"] for p in points if p["idle_power_w"] is not None), None)
    print_table(f"{len(points)} points, rail {points[0]['rail']}, idle {si(idle, 'W')}", columns, rows)


def _segment_row(segment: Document) -> tuple[str, ...]:
    forward_s = segment["forward_s"]
    rate = segment["forward_flop"] / forward_s if forward_s and segment["forward_flop"] else None
    return (
        segment["segment"],
        str(segment["count"]),
        milliseconds(forward_s),
        _relative_error(segment, "forward_s"),
        _backward(segment),
        _relative_error(segment, "backward_s"),
        si(segment["forward_flop"], "FLOP", 5),
        si(segment["backward_flop"], "FLOP", 5),
        si(rate, "FLOP/s"),
        NOT_MEASURED if segment["energy_j"] is None else f"{segment['energy_j']:.4g}",
        " ".join(segment["flags"]),
    )


def _backward(segment: Document) -> str:
    """The embedding has no backward pass: nothing trainable lies before it."""
    return "-" if segment["segment"] == "embedding" else milliseconds(segment["backward_s"])


def _relative_error(segment: Document, key: str) -> str:
    beside = segment["estimates"].get(key)
    if beside is None or beside["stderr"] is None or not segment[key]:
        return ""
    return percent(beside["stderr"] / segment[key])


def _print_cuts(cuts: list[Document]) -> None:
    rows = [
        (
            str(cut["cut"]),
            si(cut["device_flop"], "FLOP"),
            si(cut["server_flop"], "FLOP"),
            data_size(cut["activation_bytes"]),
            data_size(cut["gradient_bytes"]),
            data_size(cut["adapter_bytes"]),
            data_size(cut["device_memory_bytes"]),
            data_size(cut["server_memory_bytes"]),
            {True: "yes", False: "no", None: NOT_MEASURED}[cut["device_fits"]],
        )
        for cut in cuts
    ]
    columns = (
        "cut",
        "device work",
        "server work",
        "smashed data",
        "gradient",
        "adapters",
        "device memory",
        "server memory",
        "fits",
    )
    print_line()
    print_table("cuts: layers 1..cut on the device, the rest and the head on the server", columns, rows)


def _print_check(check: Document) -> None:
    total, whole = check["sum_of_segments_s"], check["whole_step_s"]
    text = f"sum of segments {si(total, 's')}, whole step {si(whole, 's')}"
    if total and whole:
        text += f", difference {percent(total / whole - 1)}"
    print_line()
    print_line(text)
