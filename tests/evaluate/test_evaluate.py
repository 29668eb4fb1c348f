"""Evaluations: what is counted, what is refused, what is paired."""

import json

import numpy as np
import pandas as pd
import pytest
from commands import geomrl
from evaluations import build_rollouts, drawn_counts
from planted import assert_legible
from small_runs import rollout_lines, save_model, write_lines

from geomrl.errors import GeomrlError
from geomrl.evaluate.accuracy import accuracy_table, default_ks, problem_scores
from geomrl.evaluate.differences import difference_table
from geomrl.evaluate.evaluation import compare_samples, open_evaluation
from geomrl.evaluate.outcomes import check_same_problems, count_outcomes, shared_problems
from geomrl.evaluate.presets import PRESETS, preset
from geomrl.evaluate.sources import Samples, parse_source
from geomrl.files import write_json
from geomrl.models.names import model_label, resolve_model
from geomrl.runs.rollouts import write_rollouts
from geomrl.stats.intervals import mean_interval
from geomrl.viz import accuracy as pictures

SIZES = {"aa": 12, "bb": 20}


def samples(label, table, n=None):
    return Samples(label, f"{label}.parquet", table, n=n)


def scores_of(seed, shift=0.0, model="m", n=4):
    table = build_rollouts(drawn_counts(seed, SIZES, n, shift), n)
    return problem_scores(count_outcomes(table, model))


# what is counted


def test_scores_are_those_of_the_counts():
    table = build_rollouts({"aa": [4, 2, 0]}, 4)
    scores = problem_scores(count_outcomes(table, "m"), ks=[3])
    assert scores["correct"].tolist() == [4, 2, 0]
    np.testing.assert_allclose(scores["pass@1"], [1, 0.5, 0])
    np.testing.assert_allclose(scores["pass@2"], [1, 5 / 6, 0])
    assert {"pass@3", "pass@4", "majority@3"} <= set(scores)
    # Problem 2: two right, one wrong, one silent. All four vote 2 : 1, of three one draw in two ties.
    np.testing.assert_allclose(scores["majority@4"], [1, 1, 0])
    np.testing.assert_allclose(scores["majority@3"], [1, (1 + 1 / 2 + 1 / 2 + 1) / 4, 0])
    np.testing.assert_allclose(scores["no_answer"], [0, 0.25, 0.25])
    np.testing.assert_allclose(scores["truncated"], [0, 0.25, 0.25])


def test_shares_that_nobody_recorded_are_left_out():
    table = build_rollouts({"aa": [4, 2, 0]}, 4).assign(finish_reason=None)
    measures = accuracy_table(problem_scores(count_outcomes(table, "m")))["measure"]
    assert "truncated" not in set(measures)
    assert "no_answer" in set(measures)


def test_the_average_is_over_benchmarks_and_not_over_problems():
    scores = scores_of(0)
    table = accuracy_table(scores, n_boot=200).set_index(["measure", "k", "benchmark"])
    means = scores.groupby("benchmark")["pass@1"].mean()
    assert table.loc[("pass", 1, "average"), "value"] == pytest.approx(means.mean())
    assert table.loc[("pass", 1, "average"), "n_problems"] == 32
    assert scores["pass@1"].mean() != pytest.approx(means.mean())
    one = mean_interval(
        scores[scores["benchmark"] == "aa"]["pass@2"].to_numpy(), label="aa/pass@2", n_boot=200,
        bounds=(0, 1),
    )  # fmt: skip
    assert table.loc[("pass", 2, "aa"), ["low", "high"]].tolist() == [one.low, one.high]


def test_ks_are_powers_of_two_and_those_asked_for():
    assert default_ks(32, [10]) == (1, 2, 4, 8, 10, 16, 32)
    with pytest.raises(GeomrlError, match=r"k = 40: k must lie in 1\.\.32"):
        default_ks(32, [40])


# what is refused, or reported


@pytest.mark.parametrize("drop", [5, 17])
def test_a_missing_sample_is_refused_and_named(drop):
    table = build_rollouts({"aa": [4, 2, 0, 1, 3]}, 4)
    torn = table.drop(index=drop)
    name = table["problem_id"][drop]
    for n in (None, 4):
        with pytest.raises(GeomrlError, match=f"problem '{name}' of aa has 3 samples where 4"):
            count_outcomes(torn, "m", n=n)
    with pytest.raises(GeomrlError, match="--only-complete"):
        compare_samples([samples("m", torn)])


def test_incomplete_problems_are_left_out_only_when_asked_and_are_named():
    table = build_rollouts({"aa": [4, 2, 0, 1, 3]}, 4).drop(index=5)
    accuracy, _, _, summary = compare_samples([samples("m", table)], only_complete=True)
    assert set(accuracy["n_problems"]) == {4}
    assert any("1 problems without exactly 4 samples are left out (aa/p1 (3))" in n
               for n in summary["notes"])  # fmt: skip
    assert summary["models"][0]["left_out"] == ["aa/p1 (3)"]
    with pytest.raises(GeomrlError, match="none of its 5 problems has 8 samples"):
        count_outcomes(table, "m", n=8, only_complete=True)


def test_a_shared_problem_is_reported_and_leaves_no_average():
    twin = {("bb", 1): "aa: what is 2 + 2?"}
    table = build_rollouts({"aa": [4, 2, 0], "bb": [1, 0, 3]}, 4, texts=twin)
    accuracy, _, _, summary = compare_samples([samples("m", table)])
    assert "average" not in set(accuracy["benchmark"])
    (note,) = [n for n in summary["notes"] if "stands twice" in n]
    assert "bb/p1 = p2" in note
    assert "no average over benchmarks" in note
    whole = build_rollouts({"aa": [4, 2, 0], "bb": [1, 0, 3]}, 4)
    assert "average" in set(compare_samples([samples("m", whole)])[0]["benchmark"])


def test_a_problem_twice_in_one_benchmark_is_found():
    table = build_rollouts({"aa": [4, 2]}, 4, texts={("aa", 1): "aa: what is 0 + 0 ?"})
    (found,) = shared_problems([count_outcomes(table, "m")])
    assert (found.problem_id, found.benchmark_id, found.kind) == ("p1", "p0", "exact")


def test_an_id_that_means_two_problems_is_refused():
    one = count_outcomes(build_rollouts({"aa": [4, 2]}, 4), "one")
    other = build_rollouts({"aa": [4, 2]}, 4, texts={("aa", 1): "another question"})
    with pytest.raises(GeomrlError, match="problem 'p1' of aa is not the same for one and two"):
        check_same_problems([one, count_outcomes(other, "two")])


def test_mixed_policies_and_missing_classes_are_refused():
    table = build_rollouts({"aa": [4, 2]}, 4)
    both = table.assign(policy=["x", "y"] * 4)
    with pytest.raises(GeomrlError, match="2 policies"):
        count_outcomes(both, "m")
    with pytest.raises(GeomrlError, match="no answer class"):
        count_outcomes(table.assign(answer_class=pd.array([pd.NA] * 8, "Int64")), "m")


def test_few_mixed_problems_are_warned_of():
    few = build_rollouts({"aa": [0] * 20 + [2] * 9 + [4] * 9}, 4)
    many = build_rollouts({"aa": [0] * 20 + [2] * 10 + [4] * 9}, 4)
    assert any("aa (9 of 38)" in n for n in compare_samples([samples("m", few)])[3]["notes"])
    assert not compare_samples([samples("m", many)])[3]["notes"]


def test_other_sampling_and_other_problems_are_noted():
    one = build_rollouts({"aa": [4, 2, 1]}, 4)
    two = build_rollouts({"aa": [4, 2], "bb": [1, 2]}, 4, temperature=0.5)
    notes = " ".join(compare_samples([samples("a", one), samples("b", two)])[3]["notes"])
    assert "different temperature (1.0 against 0.5)" in notes
    assert "2 problems in common and 3 that only one has" in notes
    assert "not comparable" in notes


# what is paired


def test_differences_are_paired_by_problem_whatever_the_order():
    base, other = scores_of(0, model="base"), scores_of(0, 0.2, model="rl")
    shuffled = base.sample(frac=1, random_state=3)
    one = difference_table(other, base, n_boot=200, n_flips=199)
    two = difference_table(other, shuffled, n_boot=200, n_flips=199)
    pd.testing.assert_frame_equal(one, two)
    gaps = (other["pass@1"] - base["pass@1"])[other["benchmark"] == "bb"]
    row = one[(one["measure"] == "pass") & (one["k"] == 1) & (one["benchmark"] == "bb")].iloc[0]
    assert row["value"] == pytest.approx(gaps.mean())
    assert row["sd"] == pytest.approx(gaps.std(ddof=1))
    assert row["n_problems"] == 20
    assert row["detectable"] == pytest.approx(2.93 * row["sd"] / np.sqrt(20), rel=0.02)
    assert row["detectable"] < row["detectable_holm"]


def test_holm_is_over_benchmarks_and_the_average_stands_aside():
    table = difference_table(scores_of(0, 0.2), scores_of(0), n_boot=200, n_flips=199)
    for _, rows in table.groupby(["measure", "k"]):
        p = rows.set_index("benchmark")["p"]
        adjusted = rows.set_index("benchmark")["p_holm"]
        small, large = sorted(["aa", "bb"], key=lambda name: p[name])
        assert adjusted[small] == pytest.approx(min(1, 2 * p[small]))
        assert adjusted[large] == pytest.approx(min(1, max(2 * p[small], p[large])))
        assert np.isnan(adjusted["average"])


def test_a_model_differs_from_itself_by_nothing():
    table = difference_table(scores_of(1), scores_of(1), n_boot=200)
    assert (table["value"] == 0).all()
    assert (table["p"] == 1).all()
    assert table["detectable"].isna().all()


def test_what_so_few_problems_cannot_show_is_not_promised():
    counts = {"aa": [0, 1, 2, 3, 4]}
    base = problem_scores(count_outcomes(build_rollouts(counts), "base"))
    other = problem_scores(count_outcomes(build_rollouts({"aa": [1, 3, 3, 4, 2]}), "rl"))
    table = difference_table(other, base, n_boot=200)
    assert (table["p"] > 0.05).all()
    assert table["detectable"].isna().all()  # 2^(1-5) > .05: no pattern of signs rejects


def test_adding_a_model_or_a_measure_moves_no_figure():
    one, two = (build_rollouts(drawn_counts(s, SIZES, 4), 4) for s in (0, 1))
    alone = compare_samples([samples("a", one)], n_boot=200)[0]
    both = compare_samples([samples("a", one), samples("b", two)], ks=[3], n_boot=200)[0]
    kept = both[(both["model"] == "a") & (both["k"].fillna(0) != 3)].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, kept)


# what the user names


def test_presets_and_own_values():
    edas = preset("edas")
    assert (edas.n, edas.sampling.temperature, edas.sampling.top_p, edas.sampling.top_k) == (
        *(32, 0.7), *(0.8, 20),
    )  # fmt: skip
    assert preset("greedy").n == 1
    changed = preset("dapo", n=4, top_p=0.9)
    assert (changed.n, changed.sampling.top_p, changed.sampling.temperature) == (4, 0.9, 1.0)
    assert PRESETS["dapo"].sampling.top_p == 0.7
    with pytest.raises(GeomrlError, match="unknown; choose among edas, dapo, greedy"):
        preset("best")
    with pytest.raises(GeomrlError, match="all be the same"):
        preset("greedy", n=4)


@pytest.fixture
def training(tmp_path):
    """A training run's folder, as far as names go."""
    run = tmp_path / "dapo"
    write_json(run / "manifest.json", {"train": {"settings": {"model": {"name": "reasoner"}}}})
    for folder in ("checkpoints/step-000025/model", "checkpoints/step-000050/model", "model"):
        write_json(run / folder / "config.json", {})
    write_json(run / "checkpoints" / "step-000025" / "complete.json", {})
    return run


def test_a_training_run_and_its_steps_are_models(training):
    assert resolve_model(str(training)) == f"{training}/model"
    at_25 = f"{training}/checkpoints/step-000025/model"
    assert resolve_model(f"{training}@25") == at_25
    assert resolve_model(f"{training}/checkpoints/step-000025") == at_25
    assert resolve_model(f"{training}@0") == resolve_model("reasoner")
    assert resolve_model("Qwen/Qwen3-1.7B") == "Qwen/Qwen3-1.7B"
    with pytest.raises(GeomrlError, match=r"no checkpoint of that step \(there is: 0, 25, 50\)"):
        resolve_model(f"{training}@30")
    with pytest.raises(GeomrlError, match="cut off"):
        resolve_model(f"{training}@50")
    (training / "model" / "config.json").unlink()
    with pytest.raises(GeomrlError, match="no final model yet"):
        resolve_model(str(training))
    names = {f"{training}@25": "dapo@25", at_25: "dapo@25", f"{training}/model": "dapo"}
    assert {name: model_label(name) for name in names} == names


def test_what_a_word_stands_for(training, tmp_path):
    assert parse_source("base=reasoner").label == "base"
    assert parse_source(f"{training}@25").kind == "model"
    table = build_rollouts({"aa": [1, 2]})
    write_rollouts(training / "eval" / "step-000010" / "rollouts.parquet", table)
    found = parse_source(f"{training}@10", read=True)
    assert (found.kind, found.label) == ("table", "dapo@10")
    with pytest.raises(GeomrlError, match="there is: 10"):
        parse_source(f"{training}@20", read=True)
    with pytest.raises(GeomrlError, match="holds no rollouts to read"):
        parse_source("reasoner", read=True)
    with pytest.raises(GeomrlError, match="no such file"):
        parse_source(str(tmp_path / "x.jsonl"))
    foreign = write_lines(tmp_path / "theirs.jsonl", rollout_lines())
    assert parse_source(f"me={foreign}").kind == "foreign"


# the command


def test_foreign_rollouts_of_two_models_end_to_end(tmp_path):
    lines = [
        line | {"model": model, "label": line["label"] and (model == "good" or i % 3 > 0)}
        for model in ("poor", "good")
        for i, line in enumerate(rollout_lines(n_problems=12, n_samples=8))
    ]
    path = write_lines(tmp_path / "r.jsonl", lines)
    out = tmp_path / "out"
    command = ["eval", "--rollouts", path, "--out", out, "--keep-labels", "--boot", 200]
    done = geomrl(*command)
    assert done.exit_code == 0, done.stderr
    assert "differences to poor" in done.stdout
    found = open_evaluation(out)
    value = found.accuracy.set_index(["model", "measure", "k"])["value"]
    for model in ("poor", "good"):
        labels = [line["label"] for line in lines if line["model"] == model]
        assert value[model, "pass", 1] == pytest.approx(np.mean(labels))
    stems = {path.stem for path in (out / "figures").glob("*.png")}
    assert stems == {"pass_curves", "majority_curves", "differences"}
    csv = pd.read_csv(out / "eval.csv")
    assert len(csv) == len(found.accuracy)
    before = (out / "eval.csv").read_bytes(), (out / "differences.csv").read_bytes()
    assert geomrl(*command, "--no-figures").exit_code == 0  # from what was imported
    assert before == ((out / "eval.csv").read_bytes(), (out / "differences.csv").read_bytes())
    drawn = geomrl("figures", out)
    assert drawn.exit_code == 0, drawn.stderr
    other = geomrl("eval", "--rollouts", path, "--out", out, "--boot", 200)
    assert other.exit_code == 1
    assert "other settings (keep_labels" in other.stderr


def test_models_are_sampled_once_and_compared(tmp_path):
    one, two = (save_model(tmp_path / name, seed=s) for s, name in ((0, "one"), (1, "two")))
    problems = write_lines(
        tmp_path / "sums.jsonl",
        [{"problem": f"what is {i} + 0?", "answer": str(i), "id": str(i)} for i in range(3)],
    )
    out = tmp_path / "out"
    command = ["eval", one, f"rl={two}", "--problems", problems, "-n", 2, "--out", out, "--boot",
               200, "--max-tokens", 6, "--template", "plain", "--preset", "dapo"]  # fmt: skip
    done = geomrl(*command)
    assert done.exit_code == 0, done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert [m["model"] for m in summary["models"]] == ["one", "rl"]
    assert summary["models"][0]["sampled_with"]["top_p"] == ["0.7"]
    assert "2503.14476" in summary["sampling"]
    made = out / "rollouts" / "rl" / "rollouts.parquet"
    stamp = made.stat().st_mtime_ns
    assert geomrl(*command).exit_code == 0
    assert made.stat().st_mtime_ns == stamp
    again = geomrl("eval", "--rollouts", out / "rollouts" / "one", f"x={made}", "--out",
                   tmp_path / "read", "--boot", 200, "--no-figures")  # fmt: skip
    assert again.exit_code == 0, again.stderr
    assert [m["model"] for m in open_evaluation(tmp_path / "read").summary["models"]] == [
        "one",
        "x",
    ]


def test_a_run_that_lost_a_problem_is_refused(tmp_path):
    model = save_model(tmp_path / "m")
    run = tmp_path / "run"
    made = geomrl("rollout", model, "--problems", "arithmetic", "--limit", 3, "-n", 2, "--out", run,
                  "--max-tokens", 4, "--template", "plain")  # fmt: skip
    assert made.exit_code == 0, made.stderr
    table = pd.read_parquet(run / "rollouts.parquet")
    for kept, message in (
        (table.iloc[:-1], "has 1 samples where 2 are due"),
        (table.iloc[:-2], "holds 2 problems where its manifest says 3"),
    ):
        write_rollouts(run / "rollouts.parquet", kept)
        done = geomrl("eval", run, "--out", tmp_path / "out")
        assert done.exit_code == 1
        assert message in done.stderr


def test_mistakes_are_one_line(tmp_path):
    path = write_lines(tmp_path / "r.jsonl", rollout_lines())
    cases = {
        "has to be sampled; give --problems": ["eval", "reasoner"],
        "two models are called 'r'": ["eval", "--rollouts", path, path],
        "write whole numbers": ["eval", "--rollouts", path, "--k", "ten"],
        "k must lie in 1..6": ["eval", "--rollouts", path, "--k", "10"],
        "unknown; choose among": ["eval", "--rollouts", path, "--preset", "best"],
    }
    for number, (message, arguments) in enumerate(cases.items()):
        done = geomrl(*arguments, "--out", tmp_path / f"out{number}")
        assert done.exit_code == 1, arguments
        assert message in done.stderr
        assert "Traceback" not in done.stderr


# the pictures


@pytest.mark.parametrize("models", [1, 3])
@pytest.mark.parametrize("benchmarks", [1, 4])
def test_pictures_show_their_tables_and_are_legible(models, benchmarks):
    sizes = {f"bench_{i}": 12 + i for i in range(benchmarks)}
    every = [
        samples(f"a model with a longish name {m}",
                build_rollouts(drawn_counts(m, sizes, 8, 0.1 * m), 8))
        for m in range(models)
    ]  # fmt: skip
    accuracy, differences, _, _ = compare_samples(every, n_boot=200, n_flips=199)
    frame = pictures.curve_frame(accuracy, "majority")
    assert set(frame["k"]) == {1, 2, 4, 8}
    panels = benchmarks + (benchmarks > 1)
    drawn = pictures.draw_pass_curves(frame, seed=0, name="majority_curves")
    assert_legible(drawn)
    assert len([a for a in drawn.figure.axes if a.axison]) == panels
    line = drawn.figure.axes[0].lines[-1]  # the first model's, drawn last
    here = frame[(frame["benchmark"] == "bench_0") & (frame["model"] == every[0].label)]
    np.testing.assert_allclose(line.get_ydata(), here["value"])
    if models > 1:
        shown = pictures.draw_differences(
            pictures.difference_frame(differences), seed=0, name="differences"
        )
        assert_legible(shown)
        assert "differences to a model" in shown.figure.texts[0].get_text().replace("\n", " ")
