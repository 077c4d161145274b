"""Tables, figures and report from a results folder, whatever of it there is."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from lensflow.cli.main import main
from lensflow.errors import LensflowError
from lensflow.mathematics import analysis
from lensflow.measures import catalogue
from lensflow.presentation import figures, table_list
from lensflow.presentation.figure_list import FIGURES, STATES, SWEEP
from lensflow.presentation.inputs import TableFiles
from lensflow.schema.setting import Setting
from lensflow.stages import make_figures, make_table, report
from lensflow.stages.collect_scores import SWEPT
from lensflow.storage.atomic import write_json, write_jsonl

SETTING = {"central": "en", "languages": ["en", "zh", "sw"], "space": "post_norm"}
LENS = {"kind": "lens", "lambda": 0.3, "lr": 1e-5}
REPORTED = {
    "source": {"title": "A paper", "arxiv": "2410.04407"},
    "tables": [
        {
            "table": "Table 1",
            "setting": "trio",
            "columns": [{"benchmark": "generation", "metric": "usable", "language": "zh"}],
            "rows": [
                {"row": method, "backbone": "tiny", "method": method, "values": [70.0]}
                for method in ("base", "lens", "strong", "sft")
            ],
        }
    ],
}
CONFIG = {
    "title": "Test",
    "backbones": {"tiny": {"license": "CC0-1.0"}},
    "blocks": [["tiny", "trio"]],
    "settings": {"trio": Setting.model_validate(SETTING).canonical()},
    "methods": {"base": {"kind": "base"}, "lens": LENS, "strong": LENS | {"lambda": 1.0}, "sft": {"kind": "sft"}},
    "versus": "lens",
    "evaluation": {"limit": None},
    "reported": {"a-paper": REPORTED},
    "command": "snakemake --configfile my.yaml --cores 2",
    "results": "results",
}
SCORES = {"base": (0.5, 3.0), "lens": (0.8, 3.1), "strong": (0.9, 3.4), "sft": (0.7, 3.3)}


def write_scores(results):
    """scores.csv, comparisons.csv, and versus.csv against lens; sft has two seeds."""
    cells, scores = [], []
    for method, (usable, nll) in SCORES.items():
        seeds = (0, 1) if method == "sft" else (0,)
        for language in ("en", "zh", "sw", "targets"):
            for benchmark, metric, value in (("generation", "usable", usable), ("likelihood", "nll", nll)):
                place = {"backbone": "tiny", "setting": "trio", "method": method, "benchmark": benchmark}
                score = {
                    "metric": metric,
                    "language": language,
                    "n": 9,
                    "value": value,
                    "low": value - 1,
                    "high": value + 1,
                }
                change = {"base": 0.0, "difference": 0.1, "difference_low": 0.05, "difference_high": 0.2}
                cells.append(
                    place | score | {"seeds": " ".join(map(str, seeds))} | (change if method != "base" else {})
                )
                if language != "targets":
                    for seed in seeds:
                        where = {"setting": "none" if method == "base" else "trio", "seed": seed}
                        run = {"engine": "hf", "dtype": "float32", "weights": f"digest of {method}"}
                        scores.append(place | score | where | run | {"value": value + seed * (language == "zh")})
    frame = pd.DataFrame(cells).reindex(columns=[*catalogue.COLUMNS, *catalogue.COMPARED])
    frame.to_csv(results / "comparisons.csv", index=False)
    helps = frame[(frame.method != "base") & (frame.metric == "usable") & (frame.language == "targets")]
    claim = {"protocol": "default", "claim": "helps", "says": "more usable answers than base", "comparator": "base"}
    claim |= {"direction": "higher", "test": "superiority", "margin": 0.05, "questions": 9, "reference": 0.4}
    claim |= {"p": 0.01, "p_adjusted": 0.02, "endpoint_verdict": "shown", "verdict": "shown"}
    helps.assign(**claim).reindex(columns=list(catalogue.CLAIMED)).to_csv(results / "claims.csv", index=False)
    direct = frame[frame.method != "lens"].assign(difference=-0.3, difference_low=-0.4, difference_high=-0.2)
    direct.assign(**{catalogue.AGAINST: "lens"}).to_csv(results / "versus.csv", index=False)
    swept = []
    for at, epochs, usable, nll in ((0.3, 1, 0.7, 3.1), (0.3, 5, 0.75, 3.3), (1.0, 1, 0.8, 3.2)):
        by = f"epochs {epochs}"
        point = {"sweep": "lambda", "at": at, "by": by, "of_setting": "trio"}
        of_method = frame[frame.method.isin(["base", "lens"])].replace({"method": {"lens": f"lens.{at}.{epochs}"}})
        of_method.loc[of_method.method != "base", "value"] = np.where(of_method.metric == "nll", nll, usable)[
            of_method.method != "base"
        ]
        # One point has two seeds, whose scores are those of the method itself.
        own = {"method": "sft", "seeds": "0 1"} if at == 1.0 else {"seeds": "0"}
        of_method.loc[of_method.method != "base", list(own)] = list(own.values())
        swept.append(of_method.assign(**point))
    pd.concat(swept)[[*SWEPT, *frame.columns]].to_csv(results / "sweeps.csv", index=False)
    pd.DataFrame(scores).to_csv(results / "scores.csv", index=False)


@pytest.fixture
def results(tmp_path):
    """lens has all files, strong has none but its cost, those of sft are empty in two ways."""
    folder = tmp_path / "results"
    rng = np.random.default_rng(0)
    states = {
        f"{side}.{language}": torch.tensor(rng.normal(size=(4, 32)), dtype=torch.bfloat16)
        for side in ("before", "after")
        for language in SETTING["languages"]
    }
    for place in ("lens/seed0", "strong/seed0", "sft/seed0", "sft/seed1"):
        (folder / "tiny/trio" / place).mkdir(parents=True)
    trained = folder / "tiny/trio"
    save_file(states, trained / "lens/seed0/dev_states.safetensors")
    write_jsonl(trained / "lens/seed0/history.jsonl", [{"step": 1, "split": "train", "loss": 1.0}])
    write_json(trained / "lens/seed0/cost.json", {"seconds": 12.0, "tokens": 3456, "peak_memory": 1e9})
    for place in ("strong/seed0", "sft/seed0", "sft/seed1"):
        write_json(trained / place / "cost.json", {})
    (trained / "sft/seed0/dev_states.safetensors").touch()
    save_file({}, trained / "sft/seed1/dev_states.safetensors")
    (trained / "sft/seed0/history.jsonl").touch()
    for run, answer in (("none/base/seed0", "<b>base</b>"), ("trio/lens/seed0", "lens")):
        sample = {
            "id": "1",
            "prompt": "habari?",
            "answer": answer,
            "identified": "sw",
            "outcome": "usable",
            "usable": True,
        }
        write_jsonl(folder / "tiny" / run / "samples/generation.sw.jsonl", [sample])
    write_scores(folder)
    return folder


def runs(results, name="cost.json"):
    return [results / "tiny/trio" / place / name for place in ("lens/seed0", "strong/seed0", "sft/seed0", "sft/seed1")]


def table_files(results, costs=None):
    costs = runs(results) if costs is None else costs
    return TableFiles(results / "comparisons.csv", results / "versus.csv", results / "claims.csv", costs)


def inputs(results, stages, **changed):
    files = stages("llama")
    found = {
        "scores": results / "scores.csv",
        "comparisons": results / "comparisons.csv",
        "sweeps": results / "sweeps.csv",
        "subspaces": files.subspaces["post_norm"],
        "states": files.states,
        "histories": runs(results, "history.jsonl"),
        "costs": runs(results),
    }
    return make_figures.FigureFiles(**found | changed)


def names(folder):
    assert {path.suffix for path in folder.iterdir()} == {".svg", ".png"}
    return {path.stem for path in folder.glob("*.svg")}


def test_every_figure_is_drawn_and_trainings_without_states_are_left_out(results, stages, tmp_path):
    folders = tmp_path / "tiny.trio", tmp_path / "again"
    for folder in folders:
        make_figures.write_figures(CONFIG, "tiny", "trio", inputs(results, stages), folder)
        assert names(folder) == {*FIGURES, "sweep.lambda", "states.lens.seed0"}
    for path in folders[0].iterdir():
        assert path.read_bytes() == (folders[1] / path.name).read_bytes(), path.name


def test_figures_without_hidden_states(results, stages, tmp_path):
    bare = inputs(results, stages, subspaces=None, states={})
    make_figures.write_figures(CONFIG, "tiny", "trio", bare, tmp_path / "a")
    assert names(tmp_path / "a") == {"effects", "outcomes", "front", "training", "sweep.lambda"}
    untrained = inputs(results, stages, subspaces=None, states={}, histories=[])
    pd.DataFrame(columns=[*SWEPT, *catalogue.COLUMNS, *catalogue.COMPARED]).to_csv(results / "sweeps.csv", index=False)
    make_figures.write_figures(CONFIG, "tiny", "trio", untrained, tmp_path / "b")
    assert names(tmp_path / "b") == {"effects", "outcomes", "front"}


def drawn(results, stages, monkeypatch, tmp_path, config=CONFIG, **changed):
    """The figures themselves, by name."""
    found = {}
    monkeypatch.setattr(figures, "save", lambda figure, stem: found.update({stem.name: figure}))
    make_figures.write_figures(config, "tiny", "trio", inputs(results, stages, **changed), tmp_path)
    return found


@pytest.mark.parametrize("space", ["post_norm", "pre_norm"])
def test_layers_are_of_all_texts_and_the_top_one_in_the_settings_space(results, stages, monkeypatch, tmp_path, space):
    config = CONFIG | {"settings": {"trio": Setting.model_validate(SETTING | {"space": space}).canonical()}}
    files = stages("llama")
    found = drawn(results, stages, monkeypatch, tmp_path, config, subspaces=files.subspaces[space])
    loaded = [load_file(files.states[language]) for language in SETTING["languages"]]
    subspaces = load_file(files.subspaces[space])
    (ax,) = found["separability"].axes
    raw, without = found["retrieval"].axes
    for layer in range(4):
        top = space == "post_norm" and layer == 3
        states = np.stack([(x["post_norm"] if top else x["layers"][layer]).double().numpy() for x in loaded])
        shares = [line.get_ydata()[layer] for line in ax.get_lines()]
        assert shares == pytest.approx(analysis.variance_shares(states)[:, 0])
        basis = subspaces["specific"][layer].double().numpy()
        for panel, of_panel in ((raw, states), (without, states - states @ basis @ basis.T)):
            hits = analysis.retrieval_hits(of_panel, 0)
            values = {line.get_label(): line.get_ydata()[layer] for line in panel.get_lines()[:3]}
            assert values == pytest.approx({"zh": hits[0].mean(), "sw": hits[1].mean(), "mean": hits.mean()})
    square = {text.get_position()[::-1]: float(text.get_text()) for text in found["cosines"].axes[0].texts}
    one, other = subspaces["directions"][-1, 1:].double()
    assert square[0, 1] == pytest.approx(float(one @ other / one.norm() / other.norm()), abs=0.005)


def test_front_has_the_seeds(results, stages, monkeypatch, tmp_path):
    (ax,) = drawn(results, stages, monkeypatch, tmp_path)["front"].axes
    # Of sft's two seeds the second is better by 1 in one of two target languages.
    assert any(
        line.get_xydata().tolist() == pytest.approx(np.array([[3.3, 0.7], [3.3, 1.2]])) for line in ax.get_lines()
    )


def test_a_sweep_has_a_curve_for_each_value_of_its_second_key(results, stages, monkeypatch, tmp_path):
    (ax,) = drawn(results, stages, monkeypatch, tmp_path)["sweep.lambda"].axes
    assert ax.get_legend_handles_labels()[1] == [
        *("Pareto front", "base", "single seeds", "lambda, epochs 1", "lambda, epochs 5")
    ]
    curves = [line.get_xydata().tolist() for line in ax.get_lines() if line.get_linewidth() == 0.9]
    assert curves == [[[3.1, 0.7], [3.2, 0.8]], [[3.3, 0.75]]]
    assert [text.get_text() for text in ax.texts] == ["0.3", "1.0", "0.3"]
    seeds = [line.get_xydata() for line in ax.get_lines() if line.get_markersize() == 3.5 and len(line.get_xdata()) > 1]
    assert len(seeds) == 1 and seeds[0] == pytest.approx(np.array([[3.3, 0.7], [3.3, 1.2]]))
    assert ax.get_xlabel().startswith("negative log-likelihood in en") and "mean over targets" in ax.get_ylabel()


def test_front_needs_base_and_both_scores(results, stages, monkeypatch, tmp_path):
    frame = pd.read_csv(results / "comparisons.csv")
    for kept in (frame[frame.method != "base"], frame[frame.metric == "usable"], frame[frame.metric == "nll"]):
        kept.to_csv(results / "comparisons.csv", index=False)
        assert not {"front", "sweep.lambda"} & set(drawn(results, stages, monkeypatch, tmp_path))


def test_tables_are_written_in_three_formats_with_their_commands(results, tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        make_table.write_tables(CONFIG, table_files(results, runs(results)), folder)
    assert {path.name for path in (tmp_path / "a").iterdir()} == set(table_list.files())
    for path in (tmp_path / "a").iterdir():
        text = path.read_text()
        assert text == (tmp_path / "b" / path.name).read_text()
        command = f"snakemake --configfile my.yaml --cores 2 results/tables/{path.stem}.md"
        if path.suffix == ".md":
            assert text.endswith(f"\nMade by `{command}`\n")
        elif path.suffix == ".tex":
            assert text.startswith(f"% Made by: {command}\n")
    assert "| lens | 12 | – | 1.00 | 3,456 | – | – |" in (tmp_path / "a/cost.md").read_text()
    assert "| strong | 1.0 |" in (tmp_path / "a/ablation.md").read_text()
    versus = (tmp_path / "a/versus.md").read_text()
    assert "Difference to lens: tiny, setting trio" in versus and "difference to lens on the same items" in versus
    assert "| base | -0.30 [-0.40, -0.20] |" in versus and "| lens |" not in versus


def test_methods_stand_in_the_order_of_the_configuration(results, tmp_path):
    config = CONFIG | {"order": ["base", "strong", "sft", "lens"]}
    make_table.write_tables(config, table_files(results, []), tmp_path)
    table = pd.read_csv(tmp_path / "main.csv")
    assert list(table[table.metric == "nll"].method.unique()) == config["order"]


def test_tables_of_nothing_say_so(results, tmp_path):
    frame = pd.read_csv(results / "comparisons.csv")
    frame[frame.method == "base"].to_csv(results / "comparisons.csv", index=False)
    nothing, direct = CONFIG | {"versus": None}, results / "versus.csv"
    frame.iloc[:0].to_csv(direct, index=False)
    (results / "claims.csv").write_text(",".join(catalogue.CLAIMED))
    make_table.write_tables(nothing, table_files(results, []), tmp_path)
    for name in ("verdict", "ablation", "versus", "cost"):
        assert (tmp_path / f"{name}.md").read_text().startswith("Nothing to show.\n")
        assert (tmp_path / f"{name}.csv").read_text().startswith("backbone,setting,")
    with pytest.raises(LensflowError, match=r"none\.csv: no such file; check the path, or run the workflow"):
        make_table.write_tables(nothing, TableFiles(results / "none.csv", direct, results / "claims.csv", []), tmp_path)


def test_report_has_a_section_a_setting_with_commands_and_provenance(results, stages, tmp_path):
    folder = tmp_path / "tiny.trio"
    make_figures.write_figures(CONFIG, "tiny", "trio", inputs(results, stages), folder)
    timing = tmp_path / "method.md"
    timing.write_text("2 cores\n\n| measure | ours | target |\n|---|---|---|\n| fit | 1.5 |  |\n")
    pages = []
    for name in ("a.html", "b.html"):
        files = report.ReportFiles(table_files(results), results / "scores.csv", [folder], [timing], results)
        report.write_report(CONFIG, files, tmp_path / name)
        pages.append((tmp_path / name).read_text().replace(name, "report.html"))
    page, again = pages
    assert page == again
    verdict = page.index("More usable answers than base: shown for lens")
    assert verdict < page.index(FIGURES["effects"]) < page.index("Answers side by side") < page.index("Tables</h3>")
    assert page.count('<section id="block-') == 1 and "tiny, setting trio (central language en)" in page
    for table in table_list.TABLES:
        assert f"<summary>{table.title}</summary>" in page
        assert f"<code>snakemake --configfile my.yaml --cores 2 results/tables/{table.name}.md</code>" in page
    last = [f"{SWEEP}lambda", f"{STATES}lens, seed 0"]
    captions = [*FIGURES.values(), *last]
    places = [page.index(f">{caption.replace(chr(39), '&#39;')}</") for caption in captions]
    assert places == sorted(places) and page.count("<img ") == len(captions)
    assert page.count("results/figures/tiny.trio</code>") == len(captions)
    assert "&lt;b&gt;base&lt;/b&gt;" in page and "<b>base</b> <span" in page  # the answer as text; the method's name
    assert "<p>2 cores</p>" in page and "<td>fit</td><td>1.5</td><td></td>" in page
    assert "digest of strong" in page and json.dumps(CONFIG["command"]).replace('"', "&#34;") in page


LEFT = {"strong": (0.31,), "sft": (0.1, 0.31)}  # of each seed


@pytest.mark.parametrize("more", [0.0, -0.02])
def test_what_was_not_applied_is_marked_in_every_table_and_figure(results, stages, monkeypatch, tmp_path, more):
    for method, residuals in LEFT.items():
        for seed, residual in enumerate(residuals):
            cost = {"seconds": 1.0, "residual": residual + more}
            write_json(results / f"tiny/trio/{method}/seed{seed}/cost.json", cost)
    write_json(results / "tiny/trio/lens.0.3.1/seed0/cost.json", {"residual": 0.9 + 40 * more})
    for place in ("strong/seed0", "sft/seed0"):
        write_jsonl(results / f"tiny/trio/{place}/history.jsonl", [{"step": 1, "split": "train", "loss": 1.0}])
    expected = {"strong", "sft (2 seeds)"} if more == 0 else set()

    def labels(text):
        return {name for name in ("lens", "strong", "sft", "sft (2 seeds)") if f"{name} ‡ not applied" in text}

    make_table.write_tables(CONFIG, table_files(results, runs(results)), tmp_path / "tables")
    said = labels((tmp_path / "tables/verdict.md").read_text())
    assert said == {name.removesuffix(" (2 seeds)") for name in expected}
    for name in ("main", "summary", "cost"):
        assert labels((tmp_path / f"tables/{name}.md").read_text()) == expected
    assert labels((tmp_path / "tables/ablation.md").read_text()) == expected - {"sft (2 seeds)"}
    assert labels((tmp_path / "tables/versus.md").read_text()) == expected
    for path in (tmp_path / "tables").glob("*.md"):
        assert ("- ‡ not applied: after training, more than 0.3 of the way" in path.read_text()) == bool(expected)
    for path in (tmp_path / "tables").glob("*.tex"):
        assert (r"strong $\ddagger$ not applied" in path.read_text()) == bool(expected)
    frame = pd.read_csv(tmp_path / "tables/main.csv")
    assert set(frame[frame.not_applied].method) == {name.split()[0] for name in expected}
    assert labels(make_table.terminal_table(CONFIG, results / "comparisons.csv")) == expected

    costs = [*runs(results), results / "tiny/trio/lens.0.3.1/seed0/cost.json"]
    found = drawn(results, stages, monkeypatch, tmp_path, costs=costs)
    ticks = " ".join(label.get_text() for label in found["outcomes"].axes[0].get_yticklabels())
    assert labels(ticks) == expected
    methods = {name.split()[0] for name in expected}
    assert labels(" ".join(found["front"].axes[0].get_legend_handles_labels()[1])) == methods
    assert labels(" ".join(text.get_text() for text in found["training"].legends[0].get_texts())) == methods
    points = {text.get_text() for text in found["sweep.lambda"].axes[0].texts}
    signs = " ‡ not applied" if expected else ""
    assert points == {f"0.3{signs}", "0.3", f"1.0{signs}"}  # the last one is sft


def test_states_of_what_was_not_applied_say_so(results, stages, monkeypatch, tmp_path):
    title = "Dev states at the top layer"
    for residual, said in ((0.3, title), (0.301, f"{title}: lens ‡ not applied")):
        write_json(results / "tiny/trio/lens/seed0/cost.json", {"residual": residual})
        assert drawn(results, stages, monkeypatch, tmp_path)["states.lens.seed0"].get_suptitle() == said


def test_a_configuration_of_something_else_is_said_in_one_line(results, capsys):
    arguments = ["show-table", "--config", '{"a": 1}', "--comparisons", str(results / "comparisons.csv")]
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: --config: unknown key 'a'; known: ")
