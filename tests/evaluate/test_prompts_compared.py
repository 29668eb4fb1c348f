"""Two models are compared on the same prompts, or the user has said that they are not."""

import json
import shutil

import pytest
from commands import geomrl
from evaluations import build_rollouts
from small_runs import save_model, write_lines

from geomrl.compare.config import CompareConfig
from geomrl.compare.run import compare_models
from geomrl.errors import GeomrlError
from geomrl.evaluate.evaluation import compare_samples, open_evaluation
from geomrl.evaluate.sources import Samples
from geomrl.files import read_json, read_parquet
from geomrl.models.names import checkpoint_path
from geomrl.probe.extraction import ExtractionConfig
from geomrl.rollout.engine import Sampling
from geomrl.rollout.generate import RolloutConfig
from geomrl.runs.rollouts import write_rollouts

BRIEF = "{% for m in messages %}then {{ m.content }} so {% endfor %}"
PLAIN = "{% for m in messages %}{{ m.content }} so {% endfor %}"


def samples(label, table):
    return Samples(label, f"{label}.parquet", table)


def asked(prompt, ids=None, n=2):
    table = build_rollouts({"aa": [4, 2, 1]}, 4, texts=None)
    front = prompt + table["problem"]
    given = [ids or [ord(c) for c in text] for text in front]
    return table.assign(prompt=front, prompt_ids=given)


# tables


def test_the_same_prompts_need_no_word():
    assert not any("words" in note for note in notes(asked("Q: "), asked("Q: ")))


def notes(one, other, **options):
    return compare_samples([samples("base", one), samples("rl", other)], n_boot=200, **options)[3][
        "notes"
    ]


@pytest.mark.parametrize(
    ("one", "other", "shown"),
    [
        (asked("Q: "), asked("Be brief. Q: "), r"'Q: aa: what.* for base and 'Be brief\. Q: "),
        # The same words, and a first token that one of them lacks.
        (asked("Q: ", [1, 5, 7]), asked("Q: ", [5, 7]), r"tokens \[1, 5, 7, .* and tokens \[5, 7, "),
    ],
    ids=["another text", "a first token"],
)  # fmt: skip
def test_other_prompts_are_refused_with_the_first_difference(one, other, shown):
    with pytest.raises(GeomrlError, match=f"problem 'p0' of aa is .*{shown}.*3 of 3.*--tokenizer"):
        compare_samples([samples("base", one), samples("rl", other)])
    (note,) = [each for each in notes(one, other, own_prompts=True) if "words" in each]
    assert "prompts and models together" in note


def test_texts_that_are_not_known_to_the_token_are_noted():
    one, other = (
        asked("Q: ").assign(prompt_ids=None),
        asked("Be brief. Q: ").assign(prompt_ids=None),
    )
    assert any("not asked in the same words" in note for note in notes(one, other))
    # A chat as messages says nothing about a text.
    chat = one.assign(prompt=json.dumps([{"role": "user", "content": "Q"}]))
    assert not any("words" in note for note in notes(one, chat))


def test_the_tokens_of_another_vocabulary_are_no_other_prompt():
    one, other = asked("Q: ", [1, 5, 7]), asked("Q: ", [900, 800])
    assert not any("words" in note for note in notes(one, other))
    families = [
        Samples("a", "a", asked("<a>"), vocabulary="x"), Samples("b", "b", asked("<b>"), vocabulary="y")
    ]  # fmt: skip
    assert any("same words" in n for n in compare_samples(families, n_boot=200)[3]["notes"])


# the commands


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same weights twice, with two chat templates."""
    place = tmp_path_factory.mktemp("models")
    base = save_model(place / "base")
    (base / "chat_template.jinja").write_text(PLAIN)
    shutil.copytree(base, place / "rl")
    (place / "rl" / "chat_template.jinja").write_text(BRIEF)
    return base, place / "rl"


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    lines = [{"problem": f"what is {i} + 0?", "answer": str(i), "id": str(i)} for i in range(3)]
    return write_lines(tmp_path_factory.mktemp("problems") / "sums.jsonl", lines)


def test_eval_refuses_before_sampling_and_takes_one_tokenizer_or_both_prompts(
    folders, problems, tmp_path
):
    base, rl = folders
    command = ["eval", base, rl, "--problems", problems, "-n", 2, "--boot", 200, "--max-tokens", 4,
               "--template", "plain", "--no-figures"]  # fmt: skip
    refused = geomrl(*command, "--out", tmp_path / "no")
    assert refused.exit_code == 1
    assert "'what is 0 + 0? so ' for base and 'then what is 0 + 0? so ' for rl" in refused.stderr
    assert not list((tmp_path / "no").rglob("rollouts.parquet"))

    done = geomrl(*command, "--tokenizer", base, "--out", tmp_path / "one")
    assert done.exit_code == 0, done.stderr
    tables = [
        read_parquet(tmp_path / "one" / "rollouts" / m / "rollouts.parquet") for m in ("base", "rl")
    ]
    assert tables[0]["prompt"].tolist() == tables[1]["prompt"].tolist()
    assert tables[0]["response"].tolist() == tables[1]["response"].tolist()

    own = geomrl(*command, "--own-prompts", "--out", tmp_path / "own")
    assert own.exit_code == 0, own.stderr
    assert "not asked in the same words" in " ".join(own.stdout.split())
    stored = open_evaluation(tmp_path / "own").summary["notes"]
    assert any("prompts and models together" in note for note in stored)
    # Rollouts of one prompt are not taken for those of another.
    mixed = geomrl(*command, "--tokenizer", base, "--out", tmp_path / "own")
    assert mixed.exit_code == 1
    assert "made with other settings (prompts" in mixed.stderr
    # The rollouts of that run, read later and beside a model that is yet to be sampled.
    runs = [tmp_path / "own" / "rollouts" / name for name in ("base", "rl")]
    later = geomrl("eval", "--rollouts", *runs, "--out", tmp_path / "later", "--no-figures")
    assert later.exit_code == 1
    assert "not asked in the same words" in later.stderr
    beside = geomrl(*command[:1], runs[0], *command[2:], "--out", tmp_path / "beside")
    assert beside.exit_code == 1
    assert "not asked in the same words" in beside.stderr
    assert not list((tmp_path / "beside").rglob("rollouts.parquet"))


def test_options_of_prompts_are_refused_where_nobody_is_asked(tmp_path):
    write_rollouts(tmp_path / "run" / "rollouts.parquet", asked("Q: "))
    for option in (["--system", "Be brief."], ["--no-thinking"], ["--template", "plain"]):
        done = geomrl("eval", "--rollouts", tmp_path / "run", "--out", tmp_path / "out", *option)
        assert done.exit_code == 1
        assert "would change nothing" in done.stderr


def test_compare_refuses_and_takes_both_prompts_with_a_remark(tmp_path):
    base, rl = tmp_path / "base", tmp_path / "rl"
    for folder, words in ((base, ""), (rl, "Please be brief. ")):
        shutil.copytree(checkpoint_path(), folder)
        template = f"{{% for m in messages %}}{words}{{{{ m.content }}}}{{% endfor %}}"
        (folder / "chat_template.jinja").write_text(template)
    refused = geomrl("compare", base, rl, "--problems", "arithmetic", "--out", tmp_path / "no")
    assert refused.exit_code == 1
    assert "for base and 'Please be brief. " in refused.stderr
    assert not list((tmp_path / "no").rglob("rollouts.parquet"))
    compare_models(
        str(base),
        str(rl),
        "arithmetic",
        tmp_path / "own",
        limit=4,
        own_prompts=True,
        show=False,
        config=CompareConfig(probe_anchors=(), n_boot=100),
        rollouts=RolloutConfig(n=2, sampling=Sampling(max_tokens=96)),
        extraction=ExtractionConfig(layers=("final",), anchors=("before_marker",)),
    )
    (entry,) = read_json(tmp_path / "own" / "verdict.json")["checkpoints"]
    assert any("prompts and models together" in remark for remark in entry["remarks"])
