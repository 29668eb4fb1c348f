"""Where the alignment reads, on the bundled reasoner's tokenizer; what it is given; how much it weighs."""

from dataclasses import replace

import pytest
import torch
from samples import build_sample

from geomrl.models.loading import load_tokenizer
from geomrl.models.token_bytes import TokenBytes
from geomrl.train.positions import AnchorFinder, alignment_labels, alignment_weight
from geomrl.train.sections import AlignmentConfig
from geomrl.verify.marker import parse_marker

TOKENIZER = load_tokenizer("reasoner")
BOX = "\\boxed{"
FINDER = AnchorFinder(TokenBytes(TOKENIZER), parse_marker(BOX), frozenset({TOKENIZER.eos_token_id}))
PROMPT = "<|im_start|>user\nWhat is 7+5?<|im_end|>\n<|im_start|>assistant\n"
RESPONSES = [
    "Begin with 7 plus 5 is 12, so we get \\boxed{12}",
    "7+5=12, thus\\boxed{12}",
    "so \\boxed{9}, no: \\boxed{-12} it is",
    "To start, 5 and 7 make 12; so the total is now \\boxed{1234}.",
]


def ids_of(text):
    return tuple(TOKENIZER(text, add_special_tokens=False)["input_ids"])


def rollout(response, prompt=PROMPT, **overrides):
    ids = (*ids_of(response), TOKENIZER.eos_token_id)
    answer = response.rpartition(BOX)[2].partition("}")[0] if BOX in response else None
    made = build_sample(
        prompt_ids=ids_of(prompt), response=response, response_ids=ids, answer=answer
    )
    return replace(made, logprobs=(0.0,) * len(ids), **overrides)


def text_until(sample, position):
    """What prompt and response say up to a position, that token included."""
    ids = [*sample.prompt_ids, *sample.response_ids]
    return TOKENIZER.decode(ids[: position + 1], skip_special_tokens=False)


@pytest.mark.parametrize("response", RESPONSES)
def test_anchors_are_where_the_text_says(response):
    """The state before the marker has seen all before it, and nothing of it."""
    sample = rollout(response)
    before, opened, first, last, end = FINDER.find(
        sample, ["before_marker", "marker_end", "before_answer", "answer_last", "response_last"]
    )
    said = PROMPT + response
    start = said.rindex(BOX)
    # A space before the marker may share its first token, as in ` \\boxed{`.
    assert said.startswith(text_until(sample, before))
    assert len(text_until(sample, before)) <= start < len(text_until(sample, before + 1))
    assert text_until(sample, opened) == said[: start + len(BOX)]
    assert first == opened  # this tokenizer never merges the brace with a digit
    assert text_until(sample, last) == said[: said.index("}", start)]
    assert text_until(sample, end) == said  # the end of sequence is left out


@pytest.mark.parametrize("response", RESPONSES)
def test_alignment_position_is_the_anchor(response):
    sample = rollout(response)
    for name in ("before_marker", "marker_end", "before_marker-3", "fraction:0.5"):
        assert FINDER.alignment_position(sample, name) == FINDER.find(sample, [name])[0]


def test_a_marker_that_comes_first_is_announced_by_the_prompt():
    sample = rollout("\\boxed{12}")
    assert FINDER.find(sample, ["before_marker"]) == [len(sample.prompt_ids) - 1]
    assert FINDER.find(replace(sample, prompt_ids=()), ["before_marker"]) == [None]


@pytest.mark.parametrize("name", ["before_marker", "random"])
@pytest.mark.parametrize("verdict", ["no_answer", "timeout"])
def test_without_a_clear_verdict_nothing_is_aligned(name, verdict):
    assert FINDER.alignment_position(rollout(RESPONSES[0], verdict=verdict), name) is None
    assert FINDER.alignment_position(rollout(RESPONSES[0], verdict="wrong"), name) is not None


def test_a_missing_anchor_is_none_and_no_other_position():
    no_marker = rollout("so it is 12", verdict="wrong")
    assert FINDER.alignment_position(no_marker, "before_marker") is None
    other_text = rollout(RESPONSES[0], verdict="wrong")
    other_text = replace(other_text, answer="13")
    assert FINDER.alignment_position(other_text, "before_marker") is None


def test_a_random_position_is_any_of_the_response():
    sample = rollout("7+5, so \\boxed{12}")
    drawn = [FINDER.alignment_position(replace(sample, seed=s), "random") for s in range(400)]
    n_prompt, n = len(sample.prompt_ids), len(sample.response_ids)
    assert set(drawn) == set(range(n_prompt, n_prompt + n))
    again = [FINDER.alignment_position(replace(sample, seed=s), "random") for s in range(400)]
    assert drawn == again


def graded():
    """Two groups of six, with three and two correct, and the last of each without an anchor."""
    right = {0: (0, 2, 5), 1: (1, 3)}
    samples = [
        build_sample(group, "correct" if n in right[group] else "wrong", sample=n)
        for group in (0, 1)
        for n in range(6)
    ]
    return samples, [None if s.sample == 5 else 4 for s in samples]


@pytest.mark.parametrize("arm", ["correct", "wrong", "shuffled_correct", "shuffled_groups"])
def test_labels_of_each_arm(arm):
    samples, anchors = graded()
    labels = alignment_labels(samples, anchors, AlignmentConfig(rollouts=arm), seed=4)
    group = torch.tensor([0] * 5 + [1] * 5)
    correct = torch.tensor([True, False, True, False, False, False, True, False, True, False])
    # The gauges are always given the truth.
    assert torch.equal(labels.true_group, group)
    assert torch.equal(labels.true_correct, correct)
    if arm == "correct":
        assert torch.equal(labels.group, group)
        assert torch.equal(labels.correct, correct)
    elif arm == "wrong":
        assert torch.equal(labels.group, group)
        assert torch.equal(labels.correct, ~correct)
    elif arm == "shuffled_correct":
        assert torch.equal(labels.group, group)
        assert [int(labels.correct[group == g].sum()) for g in (0, 1)] == [2, 2]
        assert not torch.equal(labels.correct, correct)
    else:
        assert torch.equal(labels.correct, correct)
        assert labels.group[correct].tolist() in ([0, 1, 0, 1], [0, 1, 1, 0], [1, 0, 0, 1],
                                                  [1, 0, 1, 0], [1, 1, 0, 0])  # fmt: skip
        assert torch.equal(labels.group[~correct], group[~correct])
    again = alignment_labels(samples, anchors, AlignmentConfig(rollouts=arm), seed=4)
    assert torch.equal(again.correct, labels.correct)
    assert torch.equal(again.group, labels.group)


def test_labels_of_no_rollout():
    samples, _ = graded()
    labels = alignment_labels(samples, [None] * 12, AlignmentConfig(rollouts="shuffled_groups"), 0)
    assert labels.group.shape == labels.correct.shape == (0,)
    assert labels.correct.dtype == torch.bool


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({}, [0.2, 0.2, 0.2, 0.2, 0.2]),
        ({"warmup_steps": 4}, [0.05, 0.1, 0.15, 0.2, 0.2]),
        ({"warmup_steps": 1}, [0.2, 0.2, 0.2, 0.2, 0.2]),
        ({"stop_after": 3}, [0.2, 0.2, 0.0, 0.0, 0.0]),
        ({"warmup_steps": 2, "stop_after": 4}, [0.1, 0.2, 0.2, 0.0, 0.0]),
    ],
)
def test_weight_schedule(schedule, expected):
    settings = AlignmentConfig(weight=0.2, **schedule)
    found = [alignment_weight(settings, step) for step in range(1, 6)]
    assert found == pytest.approx(expected, abs=1e-15)
    assert found.count(0.0) == expected.count(0.0)  # exactly 0 where it ends: no residue
