"""A loss from a file of the user's: `alignment.kind: FILE.py:FUNCTION`, in train, ablate, --dry-run."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from alignment_tables import build_table
from commands import geomrl
from processes import run_process
from toy_loss import push_apart
from training import build_config

from geomrl.ablate.grid import Grid, plan_arms
from geomrl.ablate.run import _record
from geomrl.ablate.worker import train_arm
from geomrl.errors import GeomrlError
from geomrl.files import file_hash, user_code_as_it_is, user_code_hash
from geomrl.runs.manifest import read_manifest
from geomrl.train.alignment import eligible_groups, hidden_align
from geomrl.train.config import load_config
from geomrl.train.metrics_log import read_metrics
from geomrl.train.own_loss import try_own_loss
from geomrl.train.run_settings import changes, record_start
from geomrl.train.user_code import user_code

SMOKE = Path(__file__).parents[2] / "configs" / "smoke.yaml"
TOY = Path(__file__).parents[1] / "toy_loss.py"
SETTINGS = [
    "steps=1", "evaluation=null", "data.prompts_per_step=2", "dapo.updates_per_rollout=1",
    "dapo.surplus=discard", "log.show_rollouts=0", "alignment.kind=toy_loss.py:push_apart",
]  # fmt: skip
SETS = [word for change in SETTINGS for word in ("--set", change)]


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A copy of the toy loss, where commands are run."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copy(TOY, tmp_path))


def written(path, body, name="loss"):
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    path.write_text(f"import torch\n\n\ndef {name}(states, group, correct):\n{lines}")
    return f"{path}:{name}"


def test_a_table_is_given_to_the_function_as_it_is_documented():
    states, group, correct = build_table()
    found = hidden_align(states, group, correct, f"{TOY}:push_apart")
    index = torch.unique(group, return_inverse=True)[1]
    assert float(found) == float(push_apart(states, index, correct))
    assert eligible_groups(group, correct, f"{TOY}:push_apart") == len(group.unique())
    nothing = hidden_align(states[:0], group[:0], correct[:0], f"{TOY}:push_apart")
    assert float(nothing) == 0


def test_dry_run_tries_it(file):
    done = geomrl("train", SMOKE, *SETS, "--dry-run", "--out", "run")
    assert done.exit_code == 0, done.output
    assert f"# toy_loss.py:push_apart: of your own, {file_hash(file)}" in done.output
    assert "note: toy_loss.py" not in done.output
    written(file, "return states.detach().sum()", "push_apart")
    done = geomrl("train", SMOKE, *SETS, "--dry-run", "--out", "run")
    assert done.exit_code == 1
    assert "push_apart: has no gradient at the states" in " ".join(done.output.split())


def test_a_training_in_a_fresh_process_learns_from_it_and_records_it(file):
    """At an anchor of the user's, too, which is also where held-out states are read."""
    anchor = shutil.copy(TOY.with_name("toy_anchor.py"), file.parent)
    place = f"{Path(anchor).name}:first_digit"
    settings = [*SETTINGS, f"alignment.anchor={place}", f"evaluation.anchors=[{place}]"]
    settings = [s for s in settings if s != "evaluation=null"]
    settings += ["evaluation.at_start=false", "evaluation.samples=4"]
    sets = [word for change in settings for word in ("--set", change)]
    outside = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    done = run_process(
        [sys.executable, "-m", "geomrl.cli", "train", SMOKE, *sets, "--out", "run"],
        env={**outside, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    recorded = read_manifest(Path("run"))["train"]["settings"]
    assert recorded["user_code"] == {
        "toy_loss.py:push_apart": file_hash(file), place: file_hash(Path(anchor)),
    }  # fmt: skip
    last = read_metrics(Path("run")).iloc[-1]
    assert last["loss/align"] > 0
    assert last["grad_norm/align"] > 0
    assert last["eval/first_digit/final/floor"] > 0
    file.write_text(file.read_text() + "\n# another thought\n")
    with pytest.raises(
        GeomrlError, match=r"run: was begun with another toy_loss.py.*changed since"
    ):
        changes(load_config(SMOKE, settings), Path("run"), 1)


def test_a_run_without_code_of_the_users_records_none(tmp_path):
    config = build_config(alignment={})
    record_start(config, tmp_path, 1)
    assert "user_code" not in read_manifest(tmp_path)["train"]["settings"]
    assert changes(config, tmp_path, 1) == {}


def test_an_edit_does_not_change_a_loss_that_is_in_use(file):
    table, kind = build_table(), "toy_loss.py:push_apart"
    with user_code_as_it_is():
        before, recorded = hidden_align(*table, kind), user_code_hash(kind)
        written(file, "return (states**2).sum()", "push_apart")
        assert hidden_align(*table, kind) == before
        assert user_code_hash(kind) == recorded
    assert hidden_align(*table, kind) == (table[0] ** 2).sum()
    assert user_code_hash(kind) != recorded


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return states.mean(0)", r"returns shape \[5\], but a loss is one number"),
        ("return 1.0", "returns float, but"),
        ("return states.sum() * float('nan')", r"returns nan for 12 finite states of 4 groups"),
        ("return states[correct].sum() / correct.sum() ** 2 / correct.float().mean()",
         "returns nan for 12 finite states of 4 groups, 0 of them correct: where nothing"),
        ("return (states.detach() ** 2).sum()", "has no gradient at the states"),
        ("return states.new_zeros(())", "has no gradient at the states"),
        ("return states.sum() * torch.rand(())", "for the same states.*draw nothing at random"),
        ("return states[0].sum()", "in another order"),
        ("return (states.T * group).sum()", "in another order"),
        ("n = (states[:, None] - states[None]).norm(dim=-1)\nreturn ((n * 1e-9) ** 0.5).sum()",
         "gradient is not finite for a table of four groups"),
        ("pairs = states[:, None] - states[None]\nfar = torch.triu_indices(len(states), len(states), 1)\n"
         "return pairs[far[0], far[1]].norm(dim=-1).sqrt().sum()",
         "not finite for rollouts of one group with equal states"),
        ("return states[group == 3].sum() + unknown", "NameError: name 'unknown'"),
        ("return (states @ torch.ones(5, dtype=torch.float64)).sum()", "fails on 12 .*RuntimeError"),
    ],
)  # fmt: skip
def test_what_is_no_loss_is_refused(tmp_path, body, message):
    kind = written(tmp_path / "own.py", body)
    with pytest.raises(GeomrlError, match=f"own.py:loss: .*{message}"):
        try_own_loss(kind)


def test_what_is_no_function_is_refused(tmp_path):
    (tmp_path / "own.py").write_text("loss = 3\nraise_it = True\n")
    with pytest.raises(GeomrlError, match="is no function but int"):
        try_own_loss(f"{tmp_path}/own.py:loss")
    with pytest.raises(GeomrlError, match="has no 'los'"):
        try_own_loss(f"{tmp_path}/own.py:los")
    with pytest.raises(GeomrlError, match=r"absent\.py:loss: no such file"):
        try_own_loss("absent.py:loss")


def test_a_stop_gradient_is_allowed_and_said(tmp_path):
    body = "return (states * states.detach()).sum()"
    (note,) = try_own_loss(written(tmp_path / "own.py", body))
    assert "not that of finite differences" in note
    assert try_own_loss(f"{TOY}:push_apart") == []


def test_it_is_an_arm_of_an_ablation(file, tmp_path):
    own = "toy_loss.py:push_apart"
    config = load_config(SMOKE)
    grid = Grid(seeds=[0], factors={"loss": ["mse", own]})
    plan = plan_arms(config, grid)
    assert [arm.folder for arm in plan.arms][-2:] == ["loss=mse", "loss=toy_loss.py-push_apart"]
    assert plan.kinds == ("cosine", "mse", own)
    arm = plan.arm(f"loss={own}").config
    code = user_code(arm)
    assert code == {own: file_hash(file)}

    settings = {"config": config.model_dump(mode="json")}
    _record(tmp_path / "out", settings, {})
    (tmp_path / "out" / "arms").mkdir()
    _record(tmp_path / "out", settings, code)  # an arm that is added later
    assert read_manifest(tmp_path / "out")["ablation"]["settings"]["user_code"] == code

    task = json.loads(json.dumps(arm.model_dump(mode="json")))
    written(file, "return (states**2).sum()", "push_apart")
    for begun_again in (
        lambda: _record(tmp_path / "out", settings, user_code(arm)),
        lambda: train_arm(task, tmp_path / "arm", code, resume=False),
    ):
        with pytest.raises(GeomrlError, match=r"was begun with another toy_loss\.py"):
            begun_again()


def test_arms_that_would_share_a_folder_are_refused():
    grid = Grid(seeds=[0], factors={"loss": ["a/b.py:f", "a-b.py:f"]})
    with pytest.raises(GeomrlError, match=r"would both lie in the folder loss=a-b\.py-f"):
        plan_arms(load_config(SMOKE), grid)


def test_the_function_of_the_docs_is_this_one():
    docs = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    assert TOY.read_text().split("def push_apart")[1].split('"""')[2].strip() in docs
