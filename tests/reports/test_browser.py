"""Every report in a real browser: drawn, silent, alone, small, usable on a phone, in the dark and on paper."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.run import command
from tests.conftest import need
from tests.reports.browser import Browser, Page
from tests.reports.conftest import PAGES
from tests.reports.world import FORMULA, HOSTILE

pytestmark = pytest.mark.once

MOST_BYTES = 2_000_000
PHONE, PAPER = 380, 718


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(need("chromium"), tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.mark.parametrize("name", PAGES)
def test_a_report_opens_without_complaint_and_asks_nobody_for_anything(name: str, browser: Browser, pages) -> None:
    page = browser.open(pages[name])
    assert page.complaints() == []
    assert page.requests() == [pages[name].as_uri()]
    assert page.evaluate("document.scripts.length") == 0
    assert pages[name].stat().st_size < MOST_BYTES


def test_what_a_page_complains_of_and_asks_for_is_noticed(browser: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<link rel=icon href=data:,><img src='missing.png'><script>console.error('x'); nothing()</script>")
    page = browser.open(bad)
    assert len(page.complaints()) >= 2 and any("missing.png" in url for url in page.requests())


DRAWN = """[...document.querySelectorAll('figure svg:not(.swatch)')].map(svg => {
  const box = svg.getBoundingClientRect();
  const shapes = [...svg.querySelectorAll('path, circle, rect.bar, rect.squares')];
  const inside = shapes.every(s => { const b = s.getBoundingClientRect();
    return b.left > box.left - 2 && b.right < box.right + 2 && b.top > box.top - 2 && b.bottom < box.bottom + 2; });
  const texts = [...svg.querySelectorAll('text')].every(t => { const b = t.getBoundingClientRect();
    return b.left > box.left - 2 && b.right < box.right + 2; });
  const painted = shapes.map(s => getComputedStyle(s)).every(c => c.fill !== 'none' || c.stroke !== 'none');
  return { title: svg.querySelector('title').textContent, width: box.width, height: box.height,
           shapes: shapes.length, inside, texts, painted, described: !!svg.querySelector('desc').textContent };
})"""


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [1100, PHONE])
def test_every_plot_is_drawn_inside_its_frame(name: str, width: int, browser: Browser, pages, world_db: Path) -> None:
    program, *words = PAGES[name]
    out = str(world_db.with_name("again.html"))
    document = command(program, *words, "--db", str(world_db), "--out", out, "--json").document
    expected = [p["title"] for s in document["sections"] for p in s["parts"] if "title" in p]
    page = browser.open(pages[name], width=width)
    drawn = page.evaluate(DRAWN)
    assert sorted(d["title"] for d in drawn) == sorted(expected) and len(drawn) > 5
    for d in drawn:
        assert d["width"] > 200 and d["height"] > 20 and d["shapes"] > 0, d
        assert d["inside"] and d["texts"] and d["painted"] and d["described"], d


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_never_scrolls_sideways(name: str, dark: bool, browser: Browser, pages) -> None:
    page = browser.open(pages[name], width=PHONE, height=800, dark=dark)
    assert page.evaluate("innerWidth") == PHONE
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE
    wide = page.evaluate(
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll') && !e.closest('svg') &&"
        " e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert wide == []


@pytest.mark.parametrize("name", PAGES)
def test_paper_shows_every_column_on_white(name: str, browser: Browser, pages) -> None:
    page = browser.open(pages[name], width=PAPER, dark=True, media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= PAPER
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate(
        f"[...document.querySelectorAll('table')].every(t => t.getBoundingClientRect().right <= {PAPER + 1})"
    )
    assert len(page.call("Page.printToPDF")["data"]) > 10_000


CONTRAST = """(() => {
  const lum = c => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255)
      .map(x => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
  const ratio = (a, b) => { const [x, y] = [lum(a), lum(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
  const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
      if (c !== 'rgba(0, 0, 0, 0)') return c; } return 'rgb(255, 255, 255)'; };
  const worst = (found, colour) => Math.min(...found.map(e => ratio(colour(getComputedStyle(e)), ground(e))));
  const all = s => [...document.querySelectorAll(s)];
  const shapes = all('figure svg .line, figure svg .dashed, figure svg .hollow, figure svg .mark');
  const filled = all('figure svg .points, figure svg .squares, figure svg .bar');
  return { text: worst(all('h1, h2, p, a, th, td, caption, li, .origin'), c => c.color),
           labels: worst(all('svg text'), c => c.fill),
           strokes: worst(shapes, c => c.stroke), fills: worst(filled, c => c.fill) };
})()"""


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", PAGES)
def test_text_and_lines_stand_out_as_wcag_asks(name: str, dark: bool, browser: Browser, pages) -> None:
    found = browser.open(pages[name], dark=dark).evaluate(CONTRAST)
    assert found["text"] >= 4.5 and found["labels"] >= 4.5, found
    assert found["strokes"] >= 3.0 and found["fills"] >= 3.0, found


@pytest.mark.parametrize("name", PAGES)
def test_every_csv_downloads_with_the_numbers_of_the_page(name: str, browser: Browser, pages, world_db: Path) -> None:
    program, *words = PAGES[name]
    out = str(world_db.with_name("again.html"))
    document = command(program, *words, "--db", str(world_db), "--out", out, "--json").document
    parts = [p for s in document["sections"] for p in s["parts"]]
    page = browser.open(pages[name])
    names = page.evaluate("[...document.querySelectorAll('a[download]')].map(a => a.download)")
    assert len(names) == len(set(names)) == len(parts)
    tables = {p["key"]: p for p in parts if "rows" in p and "columns" in p}
    for file in names[:: max(1, len(names) // 6)]:
        rows = _rows(page.download(f'a[download="{file}"]'))
        assert len(rows) > 1 and len({len(row) for row in rows}) == 1, file
        table = tables.get(file.removesuffix(".csv"))
        if table is not None:
            assert rows[1:] == [[_cell(c) for c in row] for row in table["rows"]]


def _rows(data: bytes) -> list[list[str]]:
    text = data.decode("utf-8-sig")
    assert text.endswith("\r\n")
    return list(csv.reader(io.StringIO(text)))


def _cell(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "", True: "yes", False: "no"}[value]
    if isinstance(value, str):
        return f"'{value}" if value[:1] in ("=", "+", "-", "@") and value != "-" else value
    return repr(value)


def test_hostile_names_are_text_on_the_page_and_no_formula_in_a_spreadsheet(browser: Browser, pages) -> None:
    page = browser.open(pages["fleet"])
    assert page.evaluate("document.querySelectorAll('img, script').length") == 0
    assert HOSTILE in page.evaluate("document.body.textContent")
    rows = _rows(page.download('a[download="fleet.csv"]'))
    names = [row[0] for row in rows[1:]]
    assert HOSTILE in names and f"'{FORMULA}" in names


def test_a_table_says_its_caption_to_those_who_do_not_see_it(browser: Browser, pages) -> None:
    page: Page = browser.open(pages["plan"])
    assert page.evaluate("[...document.querySelectorAll('table')].every(t => t.caption.textContent.length > 10)")
    assert page.evaluate("[...document.querySelectorAll('th')].every(t => ['row', 'col'].includes(t.scope))")
    assert page.evaluate("[...document.querySelectorAll('.scroll')].every(s => s.tabIndex === 0)")
    targets = page.evaluate("[...document.querySelectorAll('nav a')].map(a => !!document.querySelector(a.hash))")
    assert targets and all(targets)


def test_no_page_names_another_host(pages) -> None:
    for path in pages.values():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        links = re.findall(r'(?:src|href)="([^"]{0,20})', text)
        assert links and all(link.startswith(("data:", "#")) for link in links)
        assert not re.search(r"@import|url\(", text)
        assert json.dumps(text)
