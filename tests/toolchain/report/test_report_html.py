"""The page: complete, honest about what is missing, safe against hostile names, readable."""

import re
import shutil
import struct
import subprocess
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from edgerl.policies.spec import PolicySpec, Signal, StateSignal
from edgerl.toolchain.report.html import render
from edgerl.toolchain.report.model import (
    Certificate,
    ClosedLoop,
    Difference,
    LayerCost,
    Limit,
    Measured,
    Parity,
    PolicyFacts,
    Reference,
    Report,
)

VOID = {"meta", "br", "link", "img", "input", "hr"}
SECTIONS = [
    "summary", "limits", "memory", "parity", "flights", "certificates", "tensors", "spec", "notes",
]  # fmt: skip
HOSTILE = "</title></style></svg>]]><script>alert(1)</script><img src=x onerror='a' \"b\" &amp;"


class Page(HTMLParser):
    """A page as its elements and its text; fails where tags do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.in_section: dict[str, str] = {}
        self._section = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"<{tag}> repeats an attribute"
        if tag == "section":
            self._section = dict(attrs)["id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "section":
            self._section = ""

    def handle_data(self, data):
        if self.open[-1:] == ["style"]:
            return
        self.text += data
        self.in_section[self._section] = self.in_section.get(self._section, "") + data

    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}

    def attributes(self, name: str) -> list[str]:
        return [a[name] or "" for _, a in self.elements if name in a]


def drawings(html: str) -> list[str]:
    """Every outermost <svg>…</svg> of a page."""
    found, depth, start = [], 0, 0
    for match in re.finditer(r"<svg\b|</svg>", html):
        if match.group() == "</svg>":
            depth -= 1
            if depth == 0:
                found.append(html[start : match.end()])
        else:
            start = match.start() if depth == 0 else start
            depth += 1
    assert depth == 0
    return found


@pytest.fixture
def bare() -> Report:
    return Report(
        PolicyFacts("raptor", "b7" * 32, 2084, 1952),
        target="crazyflie21",
        format="f32",
        numerics="f32-fma",
        compiler="zig 0.16.0",
        verified_by="same-binary",
        counter="none",
    )


@pytest.fixture
def failing(report: Report) -> Report:
    difference = Difference(1234, "gru_1.h", 7, (0.12345679104328156, 0.12345679849386215))
    return replace(
        report,
        parity=Parity(False, 20000, ("host", "zig / unicorn"), difference),
        limits=(
            Limit("instructions", 4718, "<= 2900", False),
            Limit("cycles_model", None, "<= 7800", True),
            *report.limits[2:],
        ),
        emulated=False,
    )


@pytest.fixture
def hostile() -> tuple[Report, PolicySpec]:
    row = {"size": 1, "unit": HOSTILE, "frame": HOSTILE, "range": (-1.0, 1.0), "spin": ()}
    signal = Signal.model_construct(name=HOSTILE, labels=(HOSTILE,), **row)
    spec = PolicySpec.model_construct(
        name=HOSTILE,
        licence=HOSTILE,
        observation=(signal,),
        action=(signal,),
        state=(StateSignal.model_construct(name=HOSTILE, size=1),),
    )
    path = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return (
        Report(
            PolicyFacts(HOSTILE, HOSTILE, 1, 1),
            *[HOSTILE] * 6,
            measured=Measured(code_bytes=1, layers=(LayerCost(*[HOSTILE] * 3, 1, 1),)),
            parity=Parity(False, 1, (HOSTILE, HOSTILE), Difference(0, HOSTILE, 0)),
            reference=Reference(HOSTILE, 1.0, 1, 1, (1.0,)),
            examples=Reference(HOSTILE, 1.0, 1, 1, (1.0,)),
            closed_loop=(
                ClosedLoop(
                    HOSTILE, HOSTILE, 1, (0,), HOSTILE, {HOSTILE: 1.0}, {HOSTILE: (0.0, 1.0)},
                    ((HOSTILE, False, path),), {HOSTILE: (1.0, 2.0)},
                ),
            ),
            certificates={HOSTILE: Certificate({HOSTILE: HOSTILE}, "proved", HOSTILE)},
            limits=(Limit(HOSTILE, 1.0, HOSTILE, True), Limit(HOSTILE, 1.0, HOSTILE, False)),
            notes=(HOSTILE, "control \x00 \x1b[31m \u202e \ud800 end"),
        ),
        spec,
    )  # fmt: skip


def check_sound(html: str) -> Page:
    """Well-formed, complete in itself, and nothing that runs or loads."""
    page = Page(html)
    for drawing in drawings(html):
        ElementTree.fromstring(drawing)
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert all(link[:1] == "#" and link[1:] in ids for link in page.attributes("href"))
    for labelled in page.attributes("aria-labelledby"):
        assert set(labelled.split()) <= set(ids)
    loading = {"script", "link", "img", "iframe", "object", "embed", "image", "use", "base"}
    assert not page.tags() & loading
    names = {name for _, attributes in page.elements for name in attributes}
    assert not names & {"src", "srcset", "xlink:href", "action", "data"}
    assert not [name for name in names if name.startswith("on")]
    assert not re.search(r"url\(|@import|@font-face|expression\(", html)
    html.encode("utf-8")
    return page


def test_everything_is_on_the_page(report, spec):
    html = render(report, spec, clock_hz=168_000_000)
    page = check_sound(html)
    assert "http:" not in html and "https:" not in html
    assert len(html.encode()) < 400_000
    assert [a["id"] for tag, a in page.elements if tag == "section"] == SECTIONS
    for figure in (
        "All 10 limits held", "emulated", "same-binary", "f32-fma-tile4-rational1", "2,718",
        "7,614", "45.3", "12,180", "296", "6.86×10⁻⁷", "7.15×10⁻⁷", "bit-exact", "95.8\u202f%",
        "20,000 steps", "3,925", "8,272 B", "gru_1", "position_error", "15–17", "rad/s",
        "world-FLU", "front_right", "call graph without recursion", "Rate assumed: 100 Hz.",
    ):  # fmt: skip
        assert figure in page.text, figure
    assert "not run" not in page.text.replace("not run on the board itself", "")
    assert page.text.count("hover, clamped feedback") >= 1


def test_ranges_are_set_beside_what_was_seen(report, spec):
    page = check_sound(render(report, spec))
    said = page.in_section["tensors"]
    for part in ("relu_0", "0 … 31.31", "0 … 17.7", "i16", "14 of 16", "15 proved", "no bound"):
        assert part in said, part
    assert "motor: raw −4.544 … 4.501, saturated −1 … 1" in page.in_section["certificates"]


def test_every_figure_says_how_it_was_got(report, spec):
    html = render(report, spec, clock_hz=168_000_000)
    said = dict(
        re.findall(r'<p class="name">(.*?)</p>.*?<p class="source \w+">(.*?)</p>', html, re.S)
    )
    assert said == {
        "Instructions per step": "counted",
        "Cycles per step": "modelled",
        "Time per step": "modelled",
        "Flash": "counted",
        "RAM": "counted",
        "Stack": "counted",
        "Worst error": "measured",
        "Parity": "measured",
        "Survival": "measured",
    }


def test_time_needs_a_clock(report, spec):
    assert "Time per step" not in render(report, spec)
    no_cycles = replace(report, measured=replace(report.measured, cycles_model=None))
    assert "µs" not in render(no_cycles, spec, clock_hz=168_000_000)


def test_what_was_not_run_says_so(bare, spec):
    html = render(bare, spec, clock_hz=168_000_000)
    page = check_sound(html)
    assert "No limits were set" in page.text
    for section in SECTIONS[:-2]:
        assert "not run" in page.in_section[section], section
    passing = {"held", "exact", "good"}
    classes = {c for value in page.attributes("class") for c in value.split()}
    assert not classes & passing
    assert "✓" not in page.text and "bit-exact" not in page.text.lower()


def test_a_comparison_of_nothing_is_no_parity(bare, spec):
    for parity in (Parity(True, 0, ("host", "zig / unicorn")), Parity(True, 100, ("host",))):
        page = Page(render(replace(bare, parity=parity), spec))
        assert "bit-exact" not in page.text.lower()
        assert "not run" in page.in_section["parity"]


def test_misses_are_unmistakable(failing, spec):
    html = render(failing, spec)
    page = check_sound(html)
    assert "2 of 10 limits missed" in page.text
    assert "Missed: instructions, cycles_model." in page.text
    assert "All " not in page.text
    assert page.text.count("✗") == 2 and page.text.count("✓") == 8
    assert "not obtained" in page.in_section["limits"]
    assert "hardware" in page.text and "emulated" not in page.text


def test_the_first_difference_is_named(failing, spec):
    text = Page(render(failing, spec)).in_section["parity"]
    assert "Not bit-exact over 20,000 steps" in text
    for part in ("1,234", "gru_1.h[7]", "0.12345679104328156", "0.12345679849386215"):
        assert part in text
    assert (0.12345679104328156).hex() in text


def test_disagreeing_runs_spoil_a_verdict_without_a_limit_on_parity(report, spec):
    split = replace(report, parity=replace(report.parity, bit_exact=False))
    assert "do not agree bit for bit" in Page(render(split, spec)).text


def test_hostile_names_stay_text(hostile):
    html = render(*hostile, clock_hz=1)
    page = check_sound(html)
    # Every place a name goes to shows it as it is, and none of it became an element.
    assert page.text.count(HOSTILE) > 40
    assert "<script" not in html.lower() and "onerror='" not in html
    assert "control \ufffd \ufffd[31m \ufffd \ufffd end" in page.text


def test_the_page_forbids_itself_to_load_and_run(report, spec):
    policies = [a["content"] for _, a in Page(render(report, spec)).elements if "http-equiv" in a]
    assert len(policies) == 1
    assert policies[0] is not None and "default-src 'none'" in policies[0]
    assert "script" not in policies[0]


def test_the_same_report_gives_the_same_bytes(report, spec):
    assert render(report, spec) == render(report, spec)


def test_drawings_are_labelled(report, spec):
    pictures = [ElementTree.fromstring(d) for d in drawings(render(report, spec))]
    plots = [p for p in pictures if p.get("role") == "img"]
    # Flash, the error over time, and for each suite two views and the error over time.
    assert len(plots) == 1 + 1 + 2 * 3
    for plot in plots:
        assert plot.findtext("title") and plot.findtext("desc")
    assert all(p.get("aria-hidden") == "true" for p in pictures if p not in plots)


def test_headings_go_down_one_level_at_a_time(report, spec):
    page = Page(render(report, spec))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    lighter, darker = sorted((luminance(a), luminance(b)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_colours_have_contrast():
    """WCAG 2.2: 4.5 for text (1.4.3), 3 for graphics (1.4.11)."""
    folder = files("edgerl.toolchain.report") / "templates"
    sheet = (folder / "style.css.j2").read_text(encoding="utf-8")
    palettes = re.findall(r":root \{(.*?)\}", sheet, re.S)
    assert len(palettes) == 3  # light, dark, print
    for palette in palettes:
        colour = {
            name: value if len(value) == 7 else "#" + "".join(2 * c for c in value[1:])
            for name, value in re.findall(r"--([\w-]+): (#(?:[0-9a-f]{6}|[0-9a-f]{3}));", palette)
        }
        for text in ("ink", "muted", "held", "missed"):
            assert contrast(colour[text], colour["paper"]) >= 4.5
        for state in ("held", "missed"):
            for text in ("ink", "muted", state):
                assert contrast(colour[text], colour[f"{state}-wash"]) >= 4.5
        for graphic in ("s0", "s1", "s2", "s3", "s4", "s5", "rest"):
            assert contrast(colour[graphic], colour["paper"]) >= 3.0


def png_colours(data: bytes) -> tuple[int, int, int]:
    """Width, height, and number of distinct bytes in the pixel rows of an 8-bit PNG."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, pixels, size = 8, b"", (0, 0)
    while at < len(data):
        (length,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            size = struct.unpack(">II", body[:8])
        if kind == b"IDAT":
            pixels += body
        at += 12 + length
    return *size, len(set(zlib.decompress(pixels)))


def test_chromium_shows_the_page(report, spec, tmp_path):
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip(f"no browser to look with (none of {', '.join(names)} is installed)")
    page, picture = tmp_path / "report.html", tmp_path / "report.png"
    page.write_text(render(report, spec, clock_hz=168_000_000), encoding="utf-8")
    ran = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--hide-scrollbars", f"--user-data-dir={tmp_path / 'profile'}",
            f"--screenshot={picture}", "--window-size=1280,3600", page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )  # fmt: skip
    assert picture.exists(), ran.stderr[-2000:]
    width, height, colours = png_colours(picture.read_bytes())
    assert (width, height) == (1280, 3600)
    assert colours > 100
