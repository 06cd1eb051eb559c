"""`--plot` draws the same pictures into a file, and `--json` carries their data."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from cardlab.core.errors import MissingDependencyError, UsageError
from cardlab.reports.figures import save_figure
from cardlab.reports.views.parts import Axis, Bars, Chart, Series
from tests.cli.run import command
from tests.reports import world

MAGIC = {".png": b"\x89PNG\r\n", ".svg": b"<?xml", ".pdf": b"%PDF"}
COMMANDS = {
    "fit": ("calibrate", "fit", "--device", world.SERVER.key),
    "show": ("calibrate", "show"),
    "predict": ("calibrate", "predict", "--device", world.SERVER.key, "--frequency-mhz", "2600"),
    "plan": ("card", "plan", "--scenario", "card-letter", "--pareto"),
    "validate": ("card", "validate"),
}
WITHOUT_DB = {
    "simulate": ("card", "simulate", "--rounds", "2", "--channel", "good", "--channel", "poor"),
    "reproduce": ("card", "reproduce", "--rounds", "2"),
}


def picture(name: str) -> Chart:
    axis = Axis(label=name, unit="s", shown="ms")
    series = Series(name=name, style="points", colour=0, x=(1.0, 2.0), y=(2.0, 3.0))
    return Chart(key="x", title=name, note=name, x=axis, y=axis, series=(series,))


@pytest.mark.parametrize("name", [*COMMANDS, *WITHOUT_DB])
def test_a_picture_and_its_data(name: str, world_db: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    words = {**COMMANDS, **WITHOUT_DB}[name]
    db = tmp_path / "copy.db"
    db.write_bytes(world_db.read_bytes())
    out = tmp_path / "picture.png"
    more = ("--db", str(db)) if name in COMMANDS else ()
    result = command(*words, *more, "--plot", str(out), "--json")
    assert result.code == 0, result.err
    assert out.read_bytes().startswith(MAGIC[".png"]) and out.stat().st_size > 10_000
    charts = result.document["charts"]
    assert charts and all({"title", "note", "key"} <= set(c) for c in charts)
    for c in charts:
        assert c.get("series") or c["rows"]
        assert all(s["x"] and len(s["x"]) == len(s["y"]) for s in c.get("series", ()))


@pytest.mark.parametrize("ending", list(MAGIC))
def test_every_format_and_names_that_look_like_formulas(ending: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / f"x{ending}"
    bars = Bars(key="b", title="$\\frac{$", note="", unit="s", rows=("_a", "b"), terms=("t",), values=((1.0,), (None,)))
    save_figure([picture("_hidden $\\nothing{"), bars], str(out))
    assert out.read_bytes().startswith(MAGIC[ending])
    if ending == ".svg":
        assert not re.search(r"\d{4}-\d\d-\d\dT", out.read_text())


def test_a_wrong_ending_no_folder_and_nothing_to_draw_are_named(tmp_path: Path, world_db: Path) -> None:
    with pytest.raises(UsageError, match=r"\.png, \.svg, \.pdf"):
        save_figure([picture("x")], str(tmp_path / "x.bmp"))
    with pytest.raises(UsageError, match="nothing to draw"):
        save_figure([], str(tmp_path / "x.png"))
    out = str(tmp_path / "x.bmp")
    command("card", "plan", "--scenario", "card-letter", "--plot", out).failed_in_one_line(2, ".png")
    command("calibrate", "show", "--db", str(world_db), "--plot", out).failed_in_one_line(2, ".png")
    pytest.importorskip("matplotlib")
    no = str(tmp_path / "no" / "x.png")
    command("card", "plan", "--scenario", "card-letter", "--plot", no).failed_in_one_line(2, "cannot be written")


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"cardlab\[report\]"):
        save_figure([picture("x")], str(tmp_path / "x.png"))
