"""`geomrl report`: one file, no network, nothing runs in it that a rollout holds, all numbers there."""

import base64
import hashlib
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from ablations import make_ablation
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from processes import run_process
from small_runs import rollout_lines, write_lines
from tiny import build_model, character_tokenizer
from training_logs import make_log
from typer.testing import CliRunner

from geomrl.ablate.ablation import write_ablation
from geomrl.cli.app import app
from geomrl.errors import GeomrlError, MissingExtra
from geomrl.files import write_json, write_parquet
from geomrl.probe.extraction import ExtractionConfig
from geomrl.probe.steps import probe_states
from geomrl.report import page
from geomrl.report.collect import collect
from geomrl.report.highlight import cut, shorten
from geomrl.report.neighbours import find_neighbours, nearest
from geomrl.report.page import write_report
from geomrl.report.rollouts import ReportSettings, choose
from geomrl.report.views import clean, with_floor
from geomrl.rollout.imports.config import ImportConfig
from geomrl.rollout.steps import import_rollouts
from geomrl.runs.rollouts import write_rollouts
from geomrl.runs.run import open_run

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & <!-- "
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page(HTMLParser):
    """The elements of a page, and its data."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.links, self.scripts, self.text = [], [], [], ""
        self._open = None
        self.html = path.read_text()
        self.feed(self.html)
        self.data = json.loads(self.scripts[0])

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.links += [v for k, v in attrs if k in ("src", "href", "action", "srcset", "data")]
        self._open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self._open == "script":
            self.scripts[-1] += data
        elif self._open != "style":
            self.text += data

    def handle_endtag(self, tag):
        self._open = None

    def table(self, title, run=0):
        return next(t for t in self.data["runs"][run]["tables"] if t["title"] == title)

    def column(self, title, label, run=0):
        return next(c for c in self.table(title, run)["columns"] if c["label"] == label)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A real probed run, in which problems and responses hold HTML."""
    folder = tmp_path_factory.mktemp("report")
    lines = rollout_lines(n_problems=6)
    for line in lines:
        line["question"] += EVIL
        line["completion"] = EVIL + "🙂 " + line["completion"]
    texts = "".join(line["question"] + line["completion"] for line in lines)
    model, tokenizer = build_model(), character_tokenizer(sorted(set(texts)))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    file = write_lines(folder / "r.jsonl", lines)
    import_rollouts(
        file,
        str(folder / "model"),
        folder / "run",
        config=ImportConfig(template="plain"),
        show=False,
    )
    config = ExtractionConfig(layers=("0", "2", "final"), anchors=("before_marker", "marker_end"))
    return probe_states(
        str(folder / "model"), folder / "run", config=config, n_boot=2000, n_perm=99, show=False
    )


@pytest.fixture(scope="module")
def report(run, tmp_path_factory):
    return write_report(run.path, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="module")
def parsed(report):
    return Page(report)


def test_the_page_asks_the_network_for_nothing(parsed):
    assert all(link.startswith(("#", "data:")) for link in parsed.links), parsed.links
    assert not {"link", "iframe", "object", "embed", "base", "form"} & {
        tag for tag, attrs in parsed.tags if attrs.get("href") != "data:,"
    }
    own = page._TEMPLATES
    for name in ("report.css", *page._SCRIPTS):
        assert not re.search(r"https?://|@import|url\(", (own / name).read_text()), name
    policy = next(a["content"] for t, a in parsed.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")


def test_only_the_pages_own_scripts_run(parsed):
    """Every script that is no data has its hash in the policy; nothing else is a script."""
    policy = next(a["content"] for t, a in parsed.tags if a.get("http-equiv"))
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    kinds = [attrs.get("type") for tag, attrs in parsed.tags if tag == "script"]
    assert kinds == ["application/json", None, None, None]
    for script in parsed.scripts[1:]:
        digest = hashlib.sha256(script.encode()).digest()
        assert base64.b64encode(digest).decode() in allowed
    assert "unsafe-inline" not in policy.partition("style-src")[0]


def test_what_a_rollout_holds_stays_text(run, parsed):
    assert "img" not in {tag for tag, _ in parsed.tags}
    assert not any(name.startswith("on") for _, attrs in parsed.tags for name in attrs)
    rows = parsed.data["runs"][0]["rollouts"][0]["rows"]
    responses = run.rollouts.set_index("rollout_id")["response"]
    assert len(rows) == len(responses)
    for row in rows:
        assert "".join(text for text, _ in row["pieces"]) == responses[row["id"]]
    assert EVIL in responses.iloc[0]


def test_every_table_is_in_the_page(run, parsed):
    table = run.similarity
    for end, key in (("values", "value"), ("low", "low"), ("high", "high")):
        shown = parsed.column("Similarity", "value (95 %)")[end]
        assert shown == [clean(x) for x in table[key]]
    for label in ("layer", "anchor", "measure", "cell", "space"):
        assert parsed.column("Similarity", label)["values"] == table[label].tolist()
    assert parsed.column("Similarity", "problems")["values"] == table["n_problems"].tolist()


def test_every_cosine_has_its_floor(parsed):
    """The floor beside a cell is the row named floor at the same place, space and weighting."""
    columns = {c["label"]: c["values"] for c in parsed.table("Similarity")["columns"]}
    rows = pd.DataFrame(columns)
    cosines = rows[(rows["measure"] == "cosine") & ~rows["cell"].str.contains("-")]
    assert cosines["its floor"].notna().all()
    for key, part in cosines.groupby(["layer", "anchor", "space", "weighting"]):
        floor = part.loc[part["cell"] == "floor", "value (95 %)"]
        assert len(floor) == 1, key
        assert (part["its floor"] == floor.iloc[0]).all()
    assert rows.loc[rows["cell"].str.contains("-"), "its floor"].isna().all()
    facts = parsed.html.split('<div class="fact">')[1:]
    cosines = [fact for fact in facts if re.match(r'\s*<div class="label">[^<]*cosine<', fact)]
    assert len(cosines) == 4  # CC, raw and centred, before the marker and at its end
    assert all('class="floor">floor' in fact for fact in cosines)


def test_charts_show_the_tables_numbers(run, parsed):
    charts = {c["title"]: c for c in parsed.data["runs"][0]["charts"]}
    chart = charts["Raw cosine by layer: before marker"]
    assert chart["ticks"] == ["0", "2", "final"]
    table = run.similarity
    here = table[
        (table["measure"] == "cosine") & (table["space"] == "raw") & (table["cell"] == "CC")
        & (table["weighting"] == "problem") & (table["anchor"] == "before_marker")
    ].set_index("layer")  # fmt: skip
    series = next(s for s in chart["series"] if s["label"].startswith("CC"))
    assert series["value"] == [clean(here["value"][layer]) for layer in ("0", "2")] + [
        None,  # the line does not reach the final norm's output
        clean(here["value"]["final"]),
    ]
    assert series["low"][0] == clean(here["low"]["0"])
    assert f"n = {here['n_problems']['0']} problems" in series["text"][0]


def test_the_highlighted_token_is_the_anchors(run, parsed):
    """By the stored index: with one token a character it is that character of the response."""
    rows, _ = run.states("final", "before_marker")
    index = rows.set_index("rollout_id")["token_index"]
    found = 0
    for row in parsed.data["runs"][0]["rollouts"][0]["rows"]:
        anchors = [i for i, (_, kind) in enumerate(row["pieces"]) if kind == "anchor"]
        assert len(anchors) == (row["id"] in index.index)
        if anchors:
            before = "".join(text for text, _ in row["pieces"][: anchors[0]])
            assert (len(before), len(row["pieces"][anchors[0]][0])) == (index[row["id"]], 1)
            assert row["pieces"][anchors[0] + 1] == ["\\boxed{", "marker"]
            assert row["pieces"][anchors[0] + 2][1] == "answer"
            found += 1
    assert found == len(index) > 20


def test_neighbours_are_the_nearest_of_all_states(run, parsed):
    rows, states = run.states("final", "before_marker")
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    cosines = pd.DataFrame(unit @ unit.T, rows["rollout_id"], rows["rollout_id"])
    source = parsed.data["runs"][0]["rollouts"][0]
    every = source["rows"] + source["others"]
    for row in source["rows"]:
        if row["id"] not in cosines:
            assert "near" not in row
            continue
        others = cosines[row["id"]].drop(row["id"]).nlargest(8)
        assert [c for _, c in row["near"]] == pytest.approx(others.tolist(), abs=1e-5)
        for number, cosine in row["near"]:
            assert cosines.loc[row["id"], every[number]["id"]] == pytest.approx(cosine, abs=1e-5)


def test_the_neighbours_floor_is_the_similarity_tables(run):
    rows, states = run.states("2", "marker_end")
    found = find_neighbours(rows, states, set(rows["rollout_id"]), 3, seed=0).floor
    table = run.similarity
    row = table[
        (table["layer"] == "2") & (table["anchor"] == "marker_end") & (table["cell"] == "floor")
        & (table["space"] == "raw") & (table["weighting"] == "problem")
    ].iloc[0]  # fmt: skip
    assert (found.value, found.low, found.high) == pytest.approx((row.value, row.low, row.high))


@given(
    hnp.arrays(np.float64, st.tuples(st.integers(2, 12), st.integers(1, 4)),
               elements=st.integers(-3, 3).map(float)),
    st.integers(1, 5),
)  # fmt: skip
def test_nearest_against_brute_force(states, k):
    index, cosines = nearest(states, np.arange(len(states)), k)
    length = np.linalg.norm(states, axis=1, keepdims=True)
    unit = np.divide(states, length, out=np.zeros_like(states), where=length > 0)
    every = unit @ unit.T
    for i, (neighbours, found) in enumerate(zip(index, cosines, strict=True)):
        assert i not in neighbours
        assert len(set(neighbours)) == min(k, len(states) - 1)
        others = np.sort(np.delete(every[i], i))[::-1]
        np.testing.assert_allclose(found, others[: len(found)], atol=1e-9)
        np.testing.assert_allclose(every[i, neighbours], found, atol=1e-9)


spans = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 40), st.sampled_from(["anchor", "marker"])),
    max_size=4,
)


@given(st.text(max_size=40), spans)
def test_pieces_are_the_text(text, found):
    found = [(min(a, b, len(text)), min(max(a, b), len(text)), kind) for a, b, kind in found]
    pieces = cut(text, found)
    assert "".join(part for part, _ in pieces) == text
    kinds = [kind for part, kind in pieces for _ in part]
    for i, kind in enumerate(kinds):
        covering = [name for start, end, name in found if start <= i < end]
        assert kind == (covering[-1] if covering else "")


@given(
    st.lists(st.text("ab", min_size=1, max_size=30), min_size=1, max_size=6),
    st.integers(30, 60),
    st.data(),
)
def test_a_cut_text_keeps_its_centre_and_counts_what_it_leaves_out(texts, most, data):
    pieces = [(text, "") for text in texts]
    total = sum(map(len, texts))
    centre = data.draw(st.integers(0, total - 1))
    kept = shorten(pieces, most, centre)
    shown = sum(len(text) for text, kind in kept if kind != "cut")
    left = sum(int(re.search(r"\d+", text)[0]) for text, kind in kept if kind == "cut")
    assert shown + left == total
    assert shown == min(total, most)
    whole, at, covered = "".join(texts), 0, False
    for text, kind in kept:
        if kind == "cut":
            at += int(re.search(r"\d+", text)[0])
        else:
            assert whole[at : at + len(text)] == text
            covered |= at <= centre < at + len(text)
            at += len(text)
    assert covered


def test_a_cap_takes_whole_problems_and_says_so(run, tmp_path):
    path = write_report(run.path, tmp_path / "r.html", settings=ReportSettings(max_rollouts=13))
    source = Page(path).data["runs"][0]["rollouts"][0]
    sizes = pd.Series([row["problem_id"] for row in source["rows"]]).value_counts()
    assert sizes.tolist() == [6, 6]
    assert "12 of 36 rollouts are in this page" in source["note"]
    assert len(source["others"]) > 0  # neighbours whose text is left out are still named
    assert choose(run.rollouts, 4, 0, "x")["problem_id"].nunique() == 1


def test_rollouts_without_token_ids(run, tmp_path):
    """As `geomrl eval` keeps those of other tools: their text is shown, and why no anchor is."""
    folder = tmp_path / "foreign"
    table = run.rollouts.assign(response_ids=None, prompt_ids=None)
    write_rollouts(folder / "rollouts.parquet", table)
    write_json(folder / "manifest.json", run.manifest)
    source = Page(write_report(folder, tmp_path / "r.html")).data["runs"][0]["rollouts"][0]
    assert "without token ids" in source["note"]
    assert {kind for row in source["rows"] for _, kind in row["pieces"]} == {"", "marker", "answer"}
    assert {row["tokens"] for row in source["rows"]} == {None}


def test_places_that_are_not_stored_are_refused(run, tmp_path):
    for name, value in (("layer", "7"), ("anchor", "think_end"), ("encoder", "nobody")):
        with pytest.raises(GeomrlError, match=value):
            write_report(
                run.path, tmp_path / "r.html", settings=replace(ReportSettings(), **{name: value})
            )
    with pytest.raises(GeomrlError, match="holds nothing that a report can show"):
        write_report(tmp_path, tmp_path / "r.html")
    with pytest.raises(GeomrlError, match="no such folder"):
        write_report(tmp_path / "none", tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_without_bokeh_the_extra_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setattr(page.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"geomrl\[report\]"):
        write_report(run.path, tmp_path / "r.html")


def test_a_training_with_its_rollouts(run, tmp_path):
    folder = make_log(tmp_path / "train")
    for step in (0, 4, 12):
        write_rollouts(folder / "eval" / f"step-{step:06d}" / "rollouts.parquet", run.rollouts)
    parsed = Page(write_report(folder, tmp_path / "r.html"))
    table = parsed.table("Metrics by step")
    columns = {c["label"]: c["values"] for c in table["columns"]}
    rows = pd.DataFrame(columns).set_index(["step", "metric"])
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in log:
        for name, value in line.items():
            if name != "step" and not name.endswith(("_low", "_high")) and value is not None:
                assert rows.loc[(line["step"], name), "value (95 %)"] == clean(value)
    for place in ("align", "eval/before_marker/final"):
        assert rows.loc[(4, f"{place}/CC"), "its floor"] == clean(log[4][f"{place}/floor"])
        floor = rows.loc[(4, f"{place}/CC_centred"), "its floor"]
        assert floor == clean(log[4][f"{place}/floor_centred"])
    labels = [source["label"] for source in parsed.data["runs"][0]["rollouts"]]
    assert labels == ["held out, step 0", "held out, step 12"]
    titles = {chart["title"] for chart in parsed.data["runs"][0]["charts"]}
    assert {"Held-out problems", "Reward", "Raw cosine"} <= titles
    assert "problems: arithmetic_train" in parsed.text


def test_an_ablation(tmp_path):
    ablation = make_ablation(tmp_path / "ablation", effects={("default", "pass@1"): 0.1})
    write_ablation(ablation)
    parsed = Page(write_report(tmp_path / "ablation", tmp_path / "r.html"))
    shown = parsed.column("Comparisons", "difference (95 %)")
    assert shown["values"] == [clean(x) for x in ablation.table["difference"]]
    assert shown["low"] == [clean(x) for x in ablation.table["low"]]
    columns = {c["label"]: c["values"] for c in parsed.table("Comparisons")["columns"]}
    rows = pd.DataFrame(columns)
    geometry = rows[rows["metric"].str.endswith("/CC")]
    assert geometry["its floor"].notna().all()
    assert "pass@1, default − weight 0" in parsed.html
    assert any(chart["flip"] and chart["zero"] for chart in parsed.data["runs"][0]["charts"])


def evaluation_tables():
    rows = [
        {
            "model": model, "benchmark": name, "measure": "pass", "k": k, "value": 0.1 * k + at / 9,
            "low": 0.05, "high": 0.9, "n_problems": 30, "n_samples": 8, "seed": 0,
        }
        for at, model in enumerate(["base", "<b>rl</b>"])
        for name in ("aime24", "average")
        for k in (1, 8)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    return table, table[table["model"] != "base"].assign(
        reference="base", p=0.01, p_holm=0.02, detectable=0.1
    )


def test_an_evaluation(tmp_path):
    accuracy, differences = evaluation_tables()
    write_parquet(tmp_path / "eval.parquet", accuracy)
    write_parquet(tmp_path / "differences.parquet", differences)
    parsed = Page(write_report(tmp_path, tmp_path / "r.html"))
    shown = parsed.column("Accuracy", "value (95 % by problem)")["values"]
    assert shown == [clean(x) for x in accuracy["value"]]
    assert parsed.column("Differences", "p (Holm)")["values"] == [0.02] * 4
    assert "b" not in {tag for tag, _ in parsed.tags}
    assert "pass@1, &lt;b&gt;rl&lt;/b&gt; − base, average" in parsed.html
    charts = parsed.data["runs"][0]["charts"]
    assert charts[2]["ticks"][::-1][:2] == ["aime24, pass@1", "aime24, pass@8"]
    assert [chart["title"] for chart in charts] == [
        *("pass@k, aime24", "pass@k, average"),
        "Paired differences in pass@k",
    ]


def test_a_comparison_with_its_verdict(tmp_path):
    rows = [
        {
            "checkpoint": "step 25", "measure": "cosine", "policy": policy, "encoder": encoder,
            "layer": layer, "anchor": "before_marker", "cell": cell, "space": space, "low": 0.1,
            "high": 0.9, "p": np.nan, "n_problems": 40, "seed": 0, "value": value + (encoder == "rl") / 10,
        }
        for policy in ("base", "rl")
        for encoder in ("base", "rl")
        for layer in ("1", "final")
        for space in ("raw", "centred")
        for cell, value in (("CC", 0.8), ("floor", 0.6), ("CC-II", 0.02))
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    write_parquet(tmp_path / "comparison.parquet", table)
    test = {
        "test": "common share", "component": "collapse", "value": 0.2, "low": 0.1, "high": 0.3,
        "p": 0.001, "p_holm": 0.01, "margin": 0.05, "detectable": 0.04, "n_problems": 40, "shown": True,
    }  # fmt: skip
    entry = {
        "checkpoint": "step 25",
        "verdict": "collapse",
        "components": ["collapse"],
        "tests": [test],
    }
    record = {
        "n_problems": 40,
        "n_samples": 16,
        "seed": 0,
        "place": {"layer": "final", "anchor": "before_marker"},
        "checkpoints": [entry | {"remarks": ["few"]}],
    }
    write_json(tmp_path / "verdict.json", record)
    parsed = Page(write_report(tmp_path, tmp_path / "r.html"))
    assert re.search(r'class="value">collapse<', parsed.html)
    assert "n = 40 problems, 16 samples each, seed 0" in parsed.html
    columns = {c["label"]: c["values"] for c in parsed.table("Comparison")["columns"]}
    shown = pd.DataFrame(columns)
    expected = with_floor(table, ["policy", "encoder", "layer", "space"])["floor"]
    pd.testing.assert_series_equal(
        shown["its floor"].astype(float), expected.map(clean).astype(float), check_names=False
    )
    assert parsed.column("Evidence", "margin")["values"] == [0.05]
    assert len(parsed.data["runs"][0]["charts"]) == 4  # two policies, two spaces


def test_arms_of_several_seeds_are_averaged_in_the_report(tmp_path):
    """Ten charts of ten checkpoints would hide what the seeds agree on."""
    rows = []
    for arm, effect in (("dapo", 0.0), ("aligned", 0.3)):
        for seed in range(3):
            at = {"checkpoint": f"{arm}-{seed}", "anchor": "before_marker", "p": np.nan, "seed": 0,
                  "low": 0.1, "high": 0.9, "n_problems": 40, "cell": "", "space": ""}  # fmt: skip
            change = {"policy": "both", "encoder": "rl-base", "measure": "cosine", "space": "raw"}
            for layer in ("1", "final"):
                for cell in ("CC", "floor"):
                    here = at | {"layer": layer, "cell": cell}
                    rows.append(here | change | {"value": effect + 0.01 * seed})
                    for who in ("base", "rl"):
                        rows.append(here | {"policy": who, "encoder": who, "measure": "cosine",
                                            "space": "raw", "value": 0.5 + effect})  # fmt: skip
            rows.append(at | {"layer": "", "anchor": "", "measure": "pass@1", "policy": "rl-base",
                              "encoder": "", "value": 0.2 + 0.02 * seed})  # fmt: skip
    write_parquet(tmp_path / "comparison.parquet", pd.DataFrame(rows))
    entries = [
        {"checkpoint": f"{arm}-{seed}", "verdict": verdict, "components": [verdict], "tests": [],
         "remarks": []}
        for arm, verdict in (("dapo", "policy"), ("aligned", "collapse"))
        for seed in range(3)
    ]  # fmt: skip
    record = {
        "n_problems": 40, "n_samples": 16, "seed": 0, "checkpoints": entries,
        "place": {"layer": "final", "anchor": "before_marker"},
    }  # fmt: skip
    write_json(tmp_path / "verdict.json", record)
    parsed = Page(write_report(tmp_path, tmp_path / "r.html"))
    assert "collapse ×\u00a03" in parsed.html
    assert "Change in CC, raw, aligned - dapo" in parsed.html
    assert re.search(r'class="value">0.300<', parsed.html)  # the same in every seed: no interval
    assert re.search(r"3 training seeds, t interval over them", parsed.html)
    assert [chart["title"] for chart in parsed.data["runs"][0]["charts"]] == [
        "CC, raw: before marker",
        "floor, raw: before marker",
    ]
    assert set(parsed.column("Arms", "seeds")["values"]) == {3}


def test_several_runs_share_a_page(run, tmp_path):
    folder = make_log(tmp_path / "train")
    out = tmp_path / "r.html"
    done = CliRunner().invoke(app, ["report", str(run.path), str(folder), "--out", str(out)])
    assert done.exit_code == 0, done.output
    parsed = Page(out)
    assert len(parsed.data["runs"]) == 2
    facts = next(c for c in parsed.data["overview"]["columns"] if c["label"] == "figure")["values"]
    assert "pass@1, r" in facts
    assert collect(folder).kinds == ("training",)
    assert open_run(run.path).manifest["rollouts"]["settings"]["file_hash"] in parsed.text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: the page is checked as text only")
def test_a_browser_draws_it(report, tmp_path):
    """In the DOM after the page's scripts: plots drawn, rollouts listed, a rollout opened."""
    quiet = ("gpu", "quic", "background-networking", "component-update", "sync", "extensions")
    done = run_process(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--no-first-run",
            *(f"--disable-{word}" for word in quiet), f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1280,4000", "--virtual-time-budget=60000",
            "--run-all-compositor-stages-before-draw", "--dump-dom", report.as_uri(),
        ]
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'data-drawn="true"' in done.stdout
    assert re.search(r'<p class="foot found">36 rollouts</p>', done.stdout)
    assert re.search(r'<span class="anchor">', done.stdout)
    assert "&lt;img src=x" in done.stdout
    assert "<img" not in done.stdout
