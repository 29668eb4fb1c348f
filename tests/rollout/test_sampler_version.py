"""Runs that another sampler began: whole tables stay as they are, half ones are not mixed."""

import pytest
from small_runs import save_model, write_lines

from geomrl.errors import GeomrlError
from geomrl.files import read_json, read_parquet, write_json, write_parquet
from geomrl.rollout.engine import Sampling
from geomrl.rollout.generate import RolloutConfig
from geomrl.rollout.steps import make_rollouts
from geomrl.runs.rollouts import SCHEMA

CONFIG = RolloutConfig(n=3, chunk=4, sampling=Sampling(max_tokens=6), template="plain")
PROBLEMS = [{"id": str(i), "problem": f"what is {i} + 0?", "answer": str(i)} for i in range(3)]


@pytest.fixture
def sampled(tmp_path):
    """A finished run of a model with 5,000 tokens, and how to repeat its command."""
    problems = write_lines(tmp_path / "sums.jsonl", PROBLEMS)
    model = save_model(tmp_path / "model", vocab_size=5000)

    def sample():
        return make_rollouts(
            str(model), str(problems), tmp_path / "run", config=CONFIG, show=False
        ).path

    return sample(), sample


def forget_sampler(run):
    """Make the manifest one of before there were two samplers."""
    manifest = read_json(run / "manifest.json")
    assert manifest["rollouts"]["settings"].pop("sampler") == 2
    write_json(run / "manifest.json", manifest)


def leave_half(run):
    """Leave the run as a kill in its second chunk does."""
    table = read_parquet(run / "rollouts.parquet")
    (run / "rollouts.parquet").unlink()
    (run / "rollouts.parts").mkdir()
    part = table.iloc[:4].reindex(columns=SCHEMA.names)
    write_parquet(run / "rollouts.parts" / "part-00000000.parquet", part, SCHEMA)
    return table


def test_an_old_table_that_is_whole_is_kept(sampled):
    run, again = sampled
    forget_sampler(run)
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    again()
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_an_old_half_is_not_continued_with_other_draws(sampled):
    run, again = sampled
    forget_sampler(run)
    leave_half(run)
    with pytest.raises(GeomrlError, match="sampler: None there, 2 now"):
        again()
    assert (run / "rollouts.parts" / "part-00000000.parquet").exists()


def test_a_half_of_the_same_sampler_resumes_to_the_same_table(sampled):
    run, again = sampled
    whole = leave_half(run)
    again()
    assert read_parquet(run / "rollouts.parquet").equals(whole)
