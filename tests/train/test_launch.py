"""Every ZeRO stage starts by `geomrl train` in a fresh process, and trains as plain torch does.

In one process after another stage proves nothing: what the first leaves behind may be what the second
would have lacked.
"""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from processes import run_process
from safetensors.torch import load_file
from training import flat_gradient, reference_loss

from geomrl.files import read_parquet
from geomrl.models.loading import load_model
from geomrl.models.token_bytes import TokenBytes
from geomrl.models.turns import end_ids
from geomrl.train.batch import read_samples
from geomrl.train.config import load_config
from geomrl.train.memory import disk, model_shape
from geomrl.train.minibatch import MiniBatch
from geomrl.train.policy import Policy, prepare_model
from geomrl.train.positions import AnchorFinder, alignment_labels
from geomrl.verify.marker import parse_marker

SMOKE = Path(__file__).parents[2] / "configs" / "smoke.yaml"
SETTINGS = [
    "steps=1", "evaluation=null", "data.prompts_per_step=2", "dapo.updates_per_rollout=1",
    "dapo.surplus=discard", "micro_batch.tokens=300", "alignment.weight=0.5",
    "optimiser.lr=0.0001", "optimiser.warmup_updates=0", "log.show_rollouts=0",
]  # fmt: skip
TOLERANCE = 1e-5
# Stage and ranks. The others start by themselves elsewhere: 0 and 2 with one rank wherever `geomrl train`
# is typed (test_own_loss.py, test_damaged_runs.py).
STARTS = [(0, 2), (1, 1), (2, 2), (3, 1), (3, 2)]


def train_cli(out, *sets):
    """Type `geomrl train configs/smoke.yaml --set ... --out OUT`, in a shell outside of any job."""
    changes = [word for change in (*SETTINGS, *sets) for word in ("--set", change)]
    outside = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return run_process(
        [sys.executable, "-m", "geomrl.cli", "train", SMOKE, *changes, "--out", out],
        env={**outside, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """Return runs by (stage, ranks), each made when it is first asked for."""
    folder, made = tmp_path_factory.mktemp("launch"), {}

    def launch(zero, ranks):
        if (zero, ranks) not in made:
            run = folder / f"zero-{zero}-ranks-{ranks}"
            done = train_cli(run, f"deepspeed.zero={zero}", f"deepspeed.processes={ranks}")
            assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
            made[zero, ranks] = run
        return made[zero, ranks]

    return launch


@pytest.fixture(scope="module")
def plain(launched):
    """Plain torch in float64 on the first run's rollouts: the gradient's norm, and the new weights."""
    config = load_config(SMOKE, SETTINGS)
    loaded = load_model("reasoner", device="cpu")
    samples = read_samples(read_parquet(launched(*STARTS[0]) / "rollouts" / "step-000001.parquet"))
    finder = AnchorFinder(
        TokenBytes(loaded.tokenizer), parse_marker(config.data.marker),
        end_ids(loaded.model.generation_config, loaded.tokenizer),
    )  # fmt: skip
    anchors = [finder.alignment_position(s, config.alignment.anchor) for s in samples]
    old = [torch.tensor(s.logprobs, dtype=torch.float64) for s in samples]
    labels = alignment_labels(samples, anchors, config.alignment, seed=0)
    policy = Policy(prepare_model(loaded.model.double()))
    policy.zero_grad()
    batch = MiniBatch(samples=samples, old=old, reference=None, anchors=anchors, labels=labels)
    reference_loss(policy, batch, config, config.alignment.weight).backward()
    norm = float(flat_gradient(policy).norm())
    torch.nn.utils.clip_grad_norm_(policy.parameters(), config.optimiser.clip_norm)
    torch.optim.AdamW(policy.parameters(), lr=config.optimiser.lr, weight_decay=0.0).step()
    return norm, dict(policy.model.named_parameters())


@pytest.mark.slow
@pytest.mark.parametrize(("zero", "ranks"), STARTS)
def test_every_stage_starts_by_itself_and_trains_as_plain_torch(launched, plain, zero, ranks):
    run = launched(zero, ranks)
    norm, want = plain
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert metrics[-1]["align/eligible"] > 0
    got = load_file(run / "model" / "model.safetensors")
    start = load_model("reasoner", device="cpu").model.state_dict()
    assert set(got) <= set(start)
    whole = torch.cat([want[name].detach().flatten() for name in want])
    off, moved = (
        torch.cat([found[name].flatten() for name in want]) - whole for found in (got, start)
    )
    assert off.norm() <= TOLERANCE * whole.norm()
    # The weights hardly move, so the bound above alone would let a wrong update pass. Where a gradient
    # is 0 but for rounding, Adam's first step is arbitrary.
    assert off.norm() <= 1e-2 * moved.norm()


@pytest.mark.slow
@pytest.mark.parametrize(("zero", "ranks"), STARTS)
def test_a_checkpoint_takes_the_disk_that_the_dry_run_says(launched, zero, ranks):
    config = load_config(SMOKE, [*SETTINGS, f"deepspeed.zero={zero}"])
    shape = model_shape(load_model("reasoner", device="cpu").model.config)
    files = (launched(zero, ranks) / "checkpoints" / "step-000001").rglob("*")
    real = sum(file.stat().st_size for file in files if file.is_file())
    # On top come a tokenizer and file headers, which are a tenth only of so small a model.
    assert 1 <= real / disk(shape, config).checkpoint < 1.2


@pytest.mark.slow
def test_the_ranks_that_it_starts_are_recorded_and_refuse_as_one(launched):
    run = launched(0, 2)
    assert json.loads((run / "manifest.json").read_text())["train"]["settings"]["world"] == 2
    refused = train_cli(run, "deepspeed.zero=0", "deepspeed.processes=2")
    assert refused.returncode == 1
    assert refused.stderr.count("add --resume to go on with it") == 1
