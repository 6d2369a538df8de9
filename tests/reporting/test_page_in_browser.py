"""The page in a real browser: as wide as its screen, nothing cut off, nothing complained of, tables that sort."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from made_records import environment, record, row, typical

from edgekit.reporting import html_page
from edgekit.reporting.comparison import compare
from edgekit.reporting.record import Example, Record, Subject

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-sync", "--disable-component-update", "--hide-scrollbars", "--enable-logging=stderr"),
    *("--window-size=1600,3200", "--dump-dom"),
)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")]

# In a frame, as no window is narrower than 500. What stands in the page is told in pixels of the frame.
LOOK = """
const frame = document.querySelector('iframe'), out = document.querySelector('pre')
frame.onload = () => {
  const page = frame.contentDocument, found = { title: page.title, width: frame.contentWindow.innerWidth,
    scroll: page.scrollingElement.scrollWidth, tables: [], cut: [], crossed: [], wide: [], orders: [] }
  for (const details of page.querySelectorAll('details')) details.open = true
  for (const plot of page.querySelectorAll('svg.plot')) {
    const box = plot.viewBox.baseVal, texts = [...plot.querySelectorAll('text')].map(text => [text, text.getBBox()])
    for (const [text, at] of texts)
      if (at.x < -1 || at.x + at.width > box.width + 1 || at.y < -1 || at.y + at.height > box.height + 1)
        found.cut.push(text.textContent)
    if (!plot.querySelector('circle'))
      texts.forEach(([one, a], number) => texts.slice(number + 1).forEach(([other, b]) => {
        if (a.x + 1 < b.x + b.width && b.x + 1 < a.x + a.width && a.y + 3 < b.y + b.height && b.y + 3 < a.y + a.height)
          found.crossed.push(one.textContent + ' / ' + other.textContent)
      }))
  }
  for (const each of page.querySelectorAll('h1, h2, h3, h4, p, dt, dd, li, figcaption, pre'))
    if (each.getBoundingClientRect().right > found.width + 1) found.wide.push(each.textContent.slice(0, 80))
  for (const frame of page.querySelectorAll('.frame')) {
    if (frame.scrollWidth > frame.clientWidth) found.tables.push(frame.ariaLabel)
    for (const cell of frame.querySelectorAll('th, td')) {
      const box = cell.getBoundingClientRect()
      if (box.right > found.width + 1 || box.left < -1) found.tables.push(cell.textContent.slice(0, 80))
    }
  }
  const table = page.querySelector('table.sortable')
  const order = () => [...table.tBodies[0].rows].map(row => row.cells[0].dataset.k)
  found.orders.push(order())
  for (const column of [3, 3, 0]) {
    const button = table.tHead.rows[0].cells[column].querySelector('button')
    if (button) { button.click(); found.orders.push(order()) }
  }
  found.sorted = table.tHead.rows[0].cells[0].getAttribute('aria-sort')
  out.textContent = JSON.stringify(found)
}
frame.srcdoc = document.querySelector('textarea').value
"""


@dataclass(frozen=True)
class Seen:
    found: dict[str, Any]
    console: list[str]


def seen(folder: Path, text: str, width: int) -> Seen:
    """A page as the browser lays it out at a width, and what it complained of."""
    file = folder / "frame.html"
    frame = f'<iframe style="border: 0; width: {width}px; height: 3000px"></iframe>'
    body = f"{frame}<pre></pre><textarea>{html.escape(text)}</textarea><script>{LOOK}</script>"
    file.write_text(f"<!doctype html><body>{body}", encoding="utf-8")
    command = [str(CHROMIUM), *OPTIONS, f"--user-data-dir={folder / 'profile'}", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    told = re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
    assert told is not None
    return Seen(json.loads(html.unescape(told[1])), [line for line in done.stderr.splitlines() if "CONSOLE" in line])


def pages() -> dict[str, str]:
    """A report, a comparison, and one with names that do not end."""
    before, after = typical(), replace(typical(1.2), environment=environment(cpu="Other"))
    names = ["before", "after"]
    long = "unbreakable" * 30
    example = Example(long, long, long, True)
    wide = replace(row(f"cpu/{long}"), bundle=long, source=long, disturbed=(long,), test=long, invalid=long)
    subject = Subject(bundle=long, what=long, examples=(example,))
    hard: Record = record(wide, row(bundle=long), subjects=(subject,), commands=(long,), method=(long,), title=long)
    return {
        "report": html_page.html([before]),
        "comparison": html_page.html([before, after], names, compare([before, after], names), ["a row: slow"]),
        "endless names": html_page.html([hard]),
    }


@pytest.mark.parametrize("width", [400, 1000, 1100, 1400])
@pytest.mark.parametrize("kind", ["report", "comparison", "endless names"])
def test_page_fits_and_nothing_is_cut_off(tmp_path: Path, kind: str, width: int) -> None:
    looked = seen(tmp_path, pages()[kind], width)
    assert looked.found["width"] == width
    assert looked.found["scroll"] <= width
    assert looked.found["tables"] == []
    assert looked.found["cut"] == []
    assert looked.found["wide"] == []
    assert looked.found["crossed"] == []
    assert looked.console == []


def test_a_click_on_a_head_sorts_up_and_down(tmp_path: Path) -> None:
    looked = seen(tmp_path, pages()["report"], 1400)
    as_made, up, down, named = looked.found["orders"]
    assert as_made == ["cpu/fp32", "openvino/fp32", "cpu/int8-dynamic", "openvino/int8-dynamic"]
    assert up == ["openvino/int8-dynamic", "cpu/int8-dynamic", "openvino/fp32", "cpu/fp32"], "by the median"
    assert down == up[::-1]
    assert named == sorted(as_made)
    assert looked.found["sorted"] == "ascending"


def test_a_script_that_is_not_ours_does_not_run(tmp_path: Path) -> None:
    smuggled = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"
    looked = seen(tmp_path, pages()["report"].replace("</footer>", f"</footer>{smuggled}"), 1400)
    assert looked.found["title"].startswith("minilm.ek, qwen3-0.6b.ek and spotter-stream.ek on Example Xeon")
    assert any("Content Security Policy" in line for line in looked.console), "and it would be told"
    assert len(looked.found["orders"]) == 4, "ours does run"
