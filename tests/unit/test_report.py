import base64
from html.parser import HTMLParser

import pytest

from lensflow.errors import LensflowError
from lensflow.presentation.html_report import Figure, Page, Samples, Section, Table, Timing, build_report, join_samples

EVIL = "<script>alert(1)</script> <img src=https://evil.example/x onerror=alert(2)>"


class Parsed(HTMLParser):
    """The elements of a page as (tag, attributes), and the text inside each sample's answer."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.stack = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def elements_of(self, attribute):
        return [attributes for _, attributes in self.elements if attribute in attributes]

    def find(self, tag, **attrs):
        return [found for name, found in self.elements if name == tag and attrs.items() <= found.items()]


def answer(text, identified, outcome, **flags):
    return {"answer": text, "identified": identified, "outcome": outcome, "usable": outcome == "usable", **flags}


@pytest.fixture
def content(tmp_path):
    figure = tmp_path / "a.svg"
    figure.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    rows = [
        {
            "prompt": "ما هي عاصمة كينيا؟",
            "answers": {
                "base": answer(EVIL, "en", "wrong_language", cut=True),
                "lens": answer("نيروبي", "ar", "usable", cut=False),
                "odd": answer("???", "unknown", "undetermined"),
            },
        }
    ]
    samples = [Samples("generation", "ar", rows), Samples("generation", "zh", rows)]
    tables = [Table("caption <b>", "<table><tr><td>1</td></tr></table>", "snakemake > out && echo '<made>'")]
    figures = [Figure('states "before" & after', figure, "snakemake results/figures")]
    return {
        "title": f"Report {EVIL}",
        "verdict": [f"Shown: {EVIL}", "It leads."],
        "export": "lensflow export my-model",
        "offer": "Export the best checkpoint",
        "picture": Section("tiny, duo", "picture", [], [], [], [Figure("effects", figure, "draw effects")], ["† told"]),
        "overview": [("backbone", EVIL), ("loss", 0.123456789)],
        "sections": [
            Section("tiny, duo", "tiny, setting duo <i>", tables, figures, samples),
            Section("other, duo", "other", [], [], [Samples("lcb", "ar", rows)]),
        ],
        "timings": [Timing(f"16 cores {EVIL}", ["measure", "ratio"], [["training <b>", "7.1x"]])],
        "checkpoints": [{"method": "lens", "lr": 1e-5}, {"method": EVIL, "steps": 20}],
        "trees": {"tiny duo lens 0": f"results/scores.json\n  {EVIL}"},
        "versions": {"torch": "2.13.0+cpu", "evil": EVIL},
        "config": {"title": EVIL, "kept": ["<b>"]},
    }


@pytest.fixture
def page(content, tmp_path):
    build_report(Page(**content), tmp_path / "report.html")
    return Parsed((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_nothing_is_loaded_from_outside(page):
    loads = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data", "poster", "background")
    ]
    assert loads and all(value.startswith(("data:", "#")) for value in loads)
    assert not page.find("link") and not page.find("iframe")
    (policy,) = page.find("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'")


def test_foreign_text_is_shown_and_not_run(page):
    assert len(page.find("script")) == 1  # the filter
    assert len(page.find("img")) == 2
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    # title twice, verdict, overview, timings, checkpoints, what one was made of, versions, configuration, samples
    assert "".join(page.texts).count(EVIL) == 2 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 3


def test_languages_directions_and_marks(page):
    assert all(found["dir"] == "auto" for found in page.find("div", **{"class": "text"}))
    assert [found.get("lang") for found in page.find("div", **{"class": "text"})] == ["en", "ar", None] * 3
    assert page.find("p", **{"class": "prompt"})[0] == {"class": "prompt", "lang": "ar", "dir": "auto"}
    assert len(page.find("div", **{"class": "answer wrong"})) == 6
    text = "".join(page.texts)
    assert text.count("✗ wrong language, en") == text.count("cut off") == 3


def test_tables_and_figures_are_inside(page, content):
    assert "".join(page.texts).count("caption <b>") == 1
    picture, image = page.find("img")
    assert picture["alt"] == "effects"
    kind, data = image["src"].split(",")
    assert (
        kind == "data:image/svg+xml;base64"
        and base64.b64decode(data) == content["sections"][0].figures[0].path.read_bytes()
    )
    assert image["alt"] == 'states "before" & after'
    assert "0.123457" in page.texts and "1e-05" in page.texts


def test_every_table_and_figure_has_its_command(page):
    assert [text for text in page.texts if text.startswith(("snakemake", "draw"))] == [
        "draw effects",
        "snakemake > out && echo '<made>'",
        "snakemake results/figures",
    ]


def test_the_verdict_opens_the_page_and_what_is_long_is_folded(page):
    text = "".join(page.texts)
    order = [
        "It leads.",
        "lensflow export my-model",
        "picture",
        "† told",
        "generation, ar",
        "caption <b>",
        "training <b>",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    folded = page.find("details", **{"class": "folded"})
    assert len(folded) == 2 + 4  # a table and a figure; checkpoints, their trees, versions, configuration
    assert not any("open" in attributes for attributes in folded)


def test_a_section_has_its_own_browser_with_its_own_choices(page):
    assert len(page.find("div", **{"class": "browser"})) == len(page.find("form")) == 2
    assert [found["name"] for found in page.find("select")] == ["benchmark", "language", "method"] * 2
    found = "".join(page.texts)
    assert found.index("tiny, setting duo <i>") < found.index("generation, zh") < found.index("caption <b>")
    assert found.index("caption <b>") < found.index("lcb, ar") < found.rindex("Provenance")
    groups = [(group["data-benchmark"], group["data-language"]) for group in page.find("article")]
    assert groups == [("generation", "ar"), ("generation", "zh"), ("lcb", "ar")]
    methods = [found["data-method"] for found in page.elements_of("data-method")]
    assert methods == ["base", "lens", "odd"] * 3


def test_navigation_leads_to_every_section_and_empty_ones_are_gone(page, content, tmp_path):
    links = [found["href"][1:] for found in page.find("a")]
    assert sorted(links) == sorted(found["id"] for found in page.find("section"))
    empty = {
        "title": "x",
        "verdict": [],
        "export": "",
        "offer": "Export the best checkpoint",
        "picture": None,
        "overview": [],
        "sections": [],
        "timings": [],
        "checkpoints": [],
        "trees": {},
        "versions": {},
        "config": {},
    }
    build_report(Page(**empty), tmp_path / "empty.html")
    bare = Parsed((tmp_path / "empty.html").read_text())
    assert not bare.find("section") and not bare.find("a") and not bare.find("script")


def test_same_input_same_bytes(content, tmp_path):
    for name in ("a.html", "b.html"):
        build_report(Page(**content), tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_figure_mistakes_are_named(content, tmp_path):
    for path, message in ((tmp_path / "b.svg", "b.svg: no such figure"), (tmp_path / "c.pdf", "c.pdf: not a figure")):
        drawn = [Figure("x", path, "snakemake")]
        with pytest.raises(LensflowError, match=message):
            build_report(Page(**content | {"sections": [Section("x", "x", [], drawn, [])]}), tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_join_puts_answers_to_one_prompt_side_by_side():
    base = [{"id": "1", "prompt": "p", "answer": "a"}, {"id": "2", "prompt": "q", "answer": "b"}]
    lens = [{"id": "2", "prompt": "q", "answer": "c"}]
    assert join_samples({"base": base, "lens": lens}) == [
        {"prompt": "p", "answers": {"base": base[0]}},
        {"prompt": "q", "answers": {"base": base[1], "lens": lens[0]}},
    ]
    with pytest.raises(LensflowError, match="lens answered another prompt 2"):
        join_samples({"base": base, "lens": [lens[0] | {"prompt": "other"}]})
