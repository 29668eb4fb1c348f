"""Rollouts in memory and on disk: nothing of a sample is lost."""

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from geomrl.files import read_parquet, write_parquet
from geomrl.train.batch import Sample, read_samples, samples_table, with_advantages

SINGLE = st.floats(-50, 0, width=32)
SAMPLE = st.builds(
    Sample,
    group=st.integers(0, 10**6),
    sample=st.integers(0, 1000),
    benchmark=st.text(min_size=1),
    problem_id=st.text(),
    problem=st.text(),
    gold=st.text(),
    prompt=st.text(),
    prompt_kind=st.sampled_from(["raw", "templated"]),
    prompt_ids=st.lists(st.integers(0, 2**31 - 1), min_size=1).map(tuple),
    response=st.text(),
    response_ids=st.lists(st.integers(0, 2**31 - 1)).map(tuple),
    logprobs=st.lists(SINGLE).map(tuple),
    finish_reason=st.sampled_from(["stop", "length"]),
    seed=st.integers(0, 2**63 - 1),
    verdict=st.sampled_from(["correct", "wrong", "no_answer", "timeout"]),
    answer=st.none() | st.text(),
    verdict_reason=st.none() | st.text(),
    policy_step=st.integers(0, 10**9),
    reward=st.floats(-3, 3),
    advantage=st.floats(-10, 10),
    trained=st.booleans(),
)


@settings(deadline=None, max_examples=50)
@given(st.lists(SAMPLE, max_size=4))
def test_samples_survive_a_parquet_file(tmp_path_factory, samples):
    path = tmp_path_factory.mktemp("samples") / "samples.parquet"
    write_parquet(path, samples_table(samples))
    assert read_samples(read_parquet(path)) == samples
    assert read_samples(samples_table(samples)) == samples


@settings(deadline=None, max_examples=20)
@given(st.lists(SAMPLE, min_size=1, max_size=3))
def test_advantages_are_set_and_nothing_else(samples):
    found = with_advantages(samples, [0.5] * len(samples))
    assert found == [dataclasses.replace(s, advantage=0.5) for s in samples]
    for sample in found:
        assert sample.correct == (sample.verdict == "correct")
        assert sample.n_tokens == len(sample.prompt_ids) + len(sample.response_ids)
