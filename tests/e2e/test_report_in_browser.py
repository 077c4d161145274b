"""The report in a real browser (Debian: chromium, chromium-driver), driven by the W3C's WebDriver protocol."""

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lensflow.measures import catalogue
from lensflow.presentation import figures, html_report
from lensflow.presentation.blocks import TableInputs, main_table
from lensflow.presentation.html_report import Figure, Samples, Section, Table
from lensflow.presentation.main_table import main
from lensflow.presentation.writers.html import to_html
from lensflow.schema.setting import Setting

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (Debian: chromium-driver)"),
]

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
EVIL = '<script>document.title = "taken"</script><img src="x" onerror="document.title = \'taken\'"><b>bold</b>'
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's key of an element's id


class Browser:
    """A session of a running chromedriver."""

    def __init__(self, port: int, profile: Path) -> None:
        options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self.address = f"http://127.0.0.1:{port}/session"
        self.address += f"/{self.call('', capabilities={'alwaysMatch': wanted})['sessionId']}"

    def call(self, path: str, **body: Any) -> Any:
        request = urllib.request.Request(f"{self.address}{path}", json.dumps(body).encode(), method="POST")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def run(self, script: str) -> Any:
        return self.call("/execute/sync", script=f"return {script}", args=[])

    def click(self, selector: str) -> None:
        found = self.call("/element", using="css selector", value=selector)
        self.call(f"/element/{found[ELEMENT]}/click")

    def media(self, **features: str) -> None:
        listed = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.call("/goog/cdp/execute", cmd="Emulation.setEmulatedMedia", params={"features": listed})


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert DRIVER
    with subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True) as driver:
        try:
            assert driver.stdout
            port = next(found[1] for line in driver.stdout if (found := re.search(r"successfully on port (\d+)", line)))
            session = Browser(int(port), tmp_path_factory.mktemp("profile"))
            try:
                yield session
            finally:
                request = urllib.request.Request(session.address, method="DELETE")
                urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60).close()
        finally:
            driver.terminate()


def row(number: int, base: tuple[str, bool], lens: tuple[str, bool]) -> dict[str, Any]:
    """A prompt with an answer of the base and of two methods: text, and whether it is in the right language."""
    answers = {"base": base, "lens": lens, "sft": ("sft", True)}
    return {
        "prompt": f"prompt {number}",
        "answers": {
            method: {
                "answer": text,
                "identified": "sw" if usable else "en",
                "outcome": "usable" if usable else "wrong_language",
                "usable": usable,
            }
            for method, (text, usable) in answers.items()
        },
    }


def wide_table() -> str:
    """Two metrics of two methods in many languages."""
    languages = ["en", "ar", "bn", "de", "es", "fr", "hi", "ja", "ko", "pt", "sw", "tr", "zh"]
    place = {"backbone": "tiny", "setting": "duo", "seeds": "0"}
    rows = [
        place
        | {"method": method, "benchmark": benchmark, "metric": metric, "language": language}
        | {"value": 0.123, "low": 0.1, "high": 0.2, "n": 40}
        for benchmark, metric in (("generation", "fidelity"), ("likelihood", "nll"))
        for method in ("base", EVIL)
        for language in languages
    ]
    cells = pd.DataFrame(rows).reindex(columns=[*catalogue.COLUMNS, *catalogue.COMPARED])
    setting = Setting.model_validate({"central": "en", "languages": languages})
    blocks = main_table(cells, {"duo": setting}, [])
    return to_html(main(TableInputs(tuple(blocks))))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    drawn = figures.training_curves(
        {"lens": [[{"step": step, "split": "train", "loss": 1 / step} for step in (1, 2, 3)]]}
    )
    image, _ = figures.save(drawn, folder / "training")
    rows = [
        row(1, ("wrong", False), ("right", True)),
        row(2, ("right", True), ("wrong", False)),
        row(3, ("right", True), (EVIL, True)),
    ]
    arabic = [row(1, ("نعم", True), ("لا", True)) | {"prompt": "ما هي عاصمة كينيا؟"}]
    scores = [Table("Wide table", wide_table(), "snakemake results/tables/main.md")]
    drawings = [Figure("Training curves", image, "snakemake results/figures/tiny.duo")]
    samples = [Samples("generation", "sw", rows), Samples("generation", "ar", arabic), Samples("lcb", "sw", rows[:1])]
    page = html_report.Page(
        title="Report",
        verdict=["More usable answers than base: not shown for lens.", "lens against base: usable answers 0.1 to 0.2."],
        export="lensflow export --backbone results/tiny/backbone/manifest.json --delta " + "results/" * 20,
        offer="Export the best checkpoint",
        picture=Section("tiny, duo", "tiny, setting duo", [], [], [], drawings),
        overview=[("Method", EVIL)],
        sections=[
            Section("tiny, duo", "tiny, setting duo", scores, drawings, samples),
            Section("tiny, trio", "tiny, setting trio", scores, [], [Samples("generation", "sw", rows)]),
        ],
        timings=[],
        checkpoints=[{"method": "lens", "weights": "0123456789abcdef" * 4}],
        trees={"tiny duo lens 0": f"results/scores.json\n  {EVIL}"},
        versions={"torch": "2"},
        config={"title": EVIL},
    )
    html_report.build_report(page, folder / "report.html")
    return folder / "report.html"


@pytest.fixture
def opened(browser: Browser, page: Path) -> Browser:
    browser.media()
    browser.call("/window/rect", width=1280, height=900)
    browser.call("/url", url=page.as_uri())
    return browser


def shown(browser: Browser, selector: str) -> list[str]:
    """The texts of the elements that can be seen, in the first section."""
    script = (
        f'[...document.querySelectorAll("#block-1 {selector}")].filter((e) => e.offsetParent).map((e) => e.textContent)'
    )
    found: list[str] = browser.run(script)
    return found


def choose(browser: Browser, name: str, value: str) -> None:
    place = browser.run(
        f'[...document.querySelectorAll("#block-1 select[name={name}] option")].findIndex((o) => o.text === "{value}")'
    )
    browser.click(f"#block-1 select[name={name}] option:nth-of-type({place + 1})")


def test_filters_hide_what_is_not_asked_for(opened: Browser) -> None:
    assert shown(opened, "h4") == ["generation, sw"]
    assert shown(opened, ".prompt") == ["prompt 1", "prompt 2", "prompt 3"] and len(shown(opened, ".answer")) == 9
    assert shown(opened, "output") == ["3 prompts"]
    choose(opened, "language", "ar")
    assert shown(opened, ".prompt") == ["ما هي عاصمة كينيا؟"] and shown(opened, "output") == ["1 prompt"]
    choose(opened, "benchmark", "lcb")
    assert shown(opened, ".prompt") == [] and shown(opened, "output") == ["0 prompts"]
    choose(opened, "language", "sw")
    assert shown(opened, "h4") == ["lcb, sw"] and shown(opened, ".prompt") == ["prompt 1"]


def test_a_method_is_shown_beside_the_base(opened: Browser) -> None:
    choose(opened, "method", "sft")
    assert shown(opened, ".answer header b") == ["base", "sft"] * 3
    choose(opened, "method", "all")
    assert shown(opened, ".answer header b") == ["base", "lens", "sft"] * 3


def test_only_wrong_answers_of_what_is_shown(opened: Browser) -> None:
    opened.click("#block-1 input[name=wrong]")
    assert shown(opened, ".prompt") == ["prompt 1", "prompt 2"]
    choose(opened, "method", "sft")  # lens's wrong answer is hidden, and does not count
    assert shown(opened, ".prompt") == ["prompt 1"]
    opened.click("#block-1 input[name=wrong]")
    assert len(shown(opened, ".prompt")) == 3


def test_search_keeps_the_prompts_that_have_the_text(opened: Browser) -> None:
    found = opened.call("/element", using="css selector", value="#block-1 input[name=search]")
    opened.call(f"/element/{found[ELEMENT]}/value", text="PROMPT 2")
    assert shown(opened, ".prompt") == ["prompt 2"] and shown(opened, "output") == ["1 prompt"]
    opened.call(f"/element/{found[ELEMENT]}/clear")
    assert len(shown(opened, ".prompt")) == 3


def test_surprise_shows_one_prompt_that_methods_answer_differently(opened: Browser) -> None:
    for _ in range(5):
        opened.click("#block-1 button[name=surprise]")
        assert len(shown(opened, ".prompt")) == 1 and shown(opened, "output") == ["1 prompt"]
        kinds = '[...document.querySelectorAll("#block-1 .answer")].filter((e) => e.offsetParent)'
        assert sorted(set(opened.run(f'{kinds}.map((e) => e.classList.contains("wrong"))'))) == [False, True]
    choose(opened, "language", "sw")
    choose(opened, "benchmark", "generation")
    choose(opened, "language", "ar")
    assert shown(opened, ".prompt") == ["ما هي عاصمة كينيا؟"]


def test_the_verdict_is_on_the_first_screen(opened: Browser) -> None:
    bottom = 'document.querySelector(".verdict li:last-child").getBoundingClientRect().bottom'
    assert opened.run(bottom) < 500
    assert opened.run('document.querySelectorAll("details[open]").length') == 0


def unfold(browser: Browser) -> None:
    browser.run('document.querySelectorAll("details.folded").forEach((one) => { one.open = true; })')


def test_one_sections_filter_leaves_the_other_alone(opened: Browser) -> None:
    choose(opened, "language", "ar")
    count = 'document.querySelectorAll("#block-2 .sample:not([hidden])").length'
    assert opened.run(count) == 3
    assert opened.run('document.querySelectorAll("#block-2 select[name=benchmark] option").length') == 1


def test_html_in_a_sample_stays_text(opened: Browser) -> None:
    assert opened.run("document.title") == "Report"
    assert EVIL in shown(opened, ".text")
    assert opened.run('document.querySelectorAll("main b").length') == 3 * (3 + 1 + 1 + 3)  # the methods' names
    assert opened.run('document.querySelectorAll("main script, .text *").length') == 0


def test_nothing_is_loaded_and_nothing_complains(opened: Browser) -> None:
    loaded = opened.run('performance.getEntriesByType("resource").map((entry) => entry.name)')
    assert [name for name in loaded if not name.startswith("data:")] == []
    assert opened.run("[...document.images].every((image) => image.complete && image.naturalWidth > 100)")
    assert [entry for entry in opened.call("/se/log", type="browser") if entry["level"] != "DEBUG"] == []


def test_navigation_leads_to_the_sections(opened: Browser) -> None:
    for place, name in enumerate(["verdict", "block-1", "block-2", "provenance"], start=1):
        opened.click(f"nav a:nth-of-type({place})")
        assert opened.run("location.hash") == f"#{name}"
        # As far down as the page goes, and below the bar that stays in place.
        top, bar = opened.run(
            f'[document.getElementById("{name}").getBoundingClientRect().top, '
            'document.querySelector("nav").getBoundingClientRect().bottom]'
        )
        at_end = opened.run("Math.ceil(scrollY + innerHeight) >= document.documentElement.scrollHeight")
        assert at_end or bar - 1 <= top < 200


def test_arabic_runs_from_right_to_left(opened: Browser) -> None:
    choose(opened, "language", "ar")
    direction = 'getComputedStyle(document.querySelector("#block-1 article:not([hidden]) .prompt")).direction'
    assert opened.run(direction) == "rtl"


def test_colours_follow_the_readers_choice(opened: Browser) -> None:
    colours = '["backgroundColor", "color"].map((name) => getComputedStyle(document.body)[name])'

    def lightness() -> list[int]:
        """Red, green and blue added up, of the page and of its text."""
        return [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in opened.run(colours)]

    opened.media(prefers_color_scheme="light")
    back, text = lightness()
    assert back > text + 400
    opened.media(prefers_color_scheme="dark")
    back, text = lightness()
    assert text > back + 400


@pytest.mark.parametrize("width", [1280, 500])
def test_the_page_is_never_wider_than_the_window(opened: Browser, width: int) -> None:
    opened.call("/window/rect", width=width, height=800)
    assert opened.run("innerWidth") == width
    assert opened.run("document.documentElement.scrollWidth") <= width
    unfold(opened)
    assert opened.run("document.documentElement.scrollWidth") <= width
    # What is too wide scrolls within its own frame.
    assert opened.run('document.querySelector("details .scroll").scrollWidth') > width


def test_a_wide_tables_rows_can_be_told_when_it_is_scrolled(opened: Browser) -> None:
    opened.call("/window/rect", width=500, height=800)
    unfold(opened)
    opened.run('document.querySelector("details .scroll").scrollLeft = 300')
    metric, label, frame = (
        opened.run(f"document.querySelector('{selector}').getBoundingClientRect().left")
        for selector in (".scores tbody th", ".scores tbody th + th", "details .scroll")
    )
    assert metric < frame == label
    lines = opened.run(
        '[...document.querySelector(".scores tbody").rows].map((row) => getComputedStyle(row.cells[0]).borderTopWidth)'
    )
    assert lines == ["1px", "0px", "1px", "0px"]  # a line above each metric
