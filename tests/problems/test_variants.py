"""Variants of problems: the bundled ones, and those that a user brings in a file."""

import json
import re
from collections import Counter

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geomrl.errors import GeomrlError
from geomrl.problems.arithmetic import (
    LARGEST_ANSWER,
    canonical_key,
    expression_text,
    heldout_problems,
    is_heldout,
    terms_of,
)
from geomrl.problems.load import load_problems, load_variants
from geomrl.problems.problem import Problem
from geomrl.problems.prompts import default_template
from geomrl.problems.variants import VARIANTS, renumbered, reordered, reworded

ORIGINALS = heldout_problems(200)
MADE = {name: make(ORIGINALS, 0) for name, make in VARIANTS.items()}


def expression(problem):
    """The expression as the statement has it."""
    (found,) = re.findall(r"\d[\d+×-]*", problem.statement)
    return found


def pairs(name):
    return zip(ORIGINALS, MADE[f"arithmetic_{name}"], strict=True)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_names_its_original_and_answers_what_it_states(name):
    for original, variant in zip(ORIGINALS, MADE[name], strict=True):
        assert variant.benchmark == name
        assert variant.meta["variant_of"] == original.problem_id
        assert name == f"arithmetic_{variant.meta['variant']}"
        assert variant.meta["level"] == original.meta["level"]
        assert str(eval(expression(variant).replace("×", "*"))) == variant.gold
        assert expression(variant) == expression_text(terms_of(variant))
        assert 1 <= int(variant.gold) <= LARGEST_ANSWER
    assert len({variant.problem_id for variant in MADE[name]}) == 200


def test_reworded_keeps_the_expression_and_changes_the_sentence():
    for original, variant in pairs("reworded"):
        assert expression(variant) == expression(original)
        assert variant.statement != original.statement


def test_reordered_keeps_terms_sentence_and_answer():
    for original, variant in pairs("reordered"):
        assert Counter(terms_of(variant)) == Counter(terms_of(original))
        assert expression(variant) != expression(original)
        assert terms_of(variant)[0].sign > 0
        assert variant.gold == original.gold
        sentences = (p.statement.replace(expression(p), "") for p in (original, variant))
        assert len(set(sentences)) == 1


def test_renumbered_is_new_held_out_and_of_the_same_structure():
    keys = [canonical_key(terms_of(p)) for p in [*ORIGINALS, *MADE["arithmetic_renumbered"]]]
    assert len(set(keys)) == 400  # no permutation of an original, nor of another variant
    redrawn = 0
    for original, variant in pairs("renumbered"):
        old, new = terms_of(original), terms_of(variant)
        assert is_heldout(new)
        assert [len(t.factors) for t in new] == [len(t.factors) for t in old]
        same = [t.sign for t in new] == [t.sign for t in old]
        assert same == variant.meta["same_signs"]
        redrawn += not same
        singles = [t.factors[0] for t in new if len(t.factors) == 1]
        assert len(set(singles)) == len(singles)
    assert 0 < redrawn < 40  # the originals hold nearly all problems of some signs


@given(seed=st.integers(0, 2**31), at=st.integers(0, 199))
@settings(max_examples=30, deadline=None)
def test_a_variant_is_a_function_of_its_problem_and_seed(seed, at):
    for make in (reworded, reordered):
        alone = make([ORIGINALS[at]], seed)[0]
        among = make(ORIGINALS[max(0, at - 3) : at + 3], seed)
        assert alone in among


def test_seeds_differ():
    for make in (reworded, reordered, renumbered):
        one, other = make(ORIGINALS[:20], 0), make(ORIGINALS[:20], 1)
        assert [p.statement for p in one] != [p.statement for p in other]


def test_benchmarks_load_by_name_with_the_bundled_template():
    found = load_problems(",".join(VARIANTS), limit=3)
    assert found == [problem for name in VARIANTS for problem in MADE[name][:3]]
    assert {default_template(problem.benchmark) for problem in found} == {"plain"}


def test_bundled_variants_of_their_originals():
    found = load_variants("arithmetic_reworded,arithmetic_renumbered", ORIGINALS)
    assert len(found) == 400
    assert found[0].meta["variant_of"] == "arithmetic/arith-000"
    assert {v.meta["variant"] for v in found} == {"reworded", "renumbered"}


TWO = [Problem("1", "aime", "a", "1"), Problem("2", "aime", "b", "2")]


def write(path, rows):
    if path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def row(name, **more):
    return {"problem_id": name, "problem": f"what is {name}?", "answer": "3"} | more


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_file_of_variants(tmp_path, suffix):
    rows = [
        row("a", variant_of="2", variant="names"),
        row("b", variant_of="aime/1", variant="names"),
    ]
    first, second = load_variants(write(tmp_path / f"v.{suffix}", rows), TWO)
    assert (first.meta["variant_of"], first.meta["variant"]) == ("aime/2", "names")
    assert second.meta["variant_of"] == "aime/1"


def test_columns_of_other_names_and_no_kind(tmp_path):
    file = write(tmp_path / "v.jsonl", [{"q": "x?", "a": 1, "original": 2}])
    names = {"statement": "q", "gold": "a", "variant_of": "original"}
    (found,) = load_variants(file, TWO, names)
    assert (found.meta["variant_of"], found.meta["variant"]) == ("aime/2", "v")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row("a", variant_of="1"), row("b")], r"problem 2 \('b'\): no column 'variant_of'"),
        ([row("a", variant_of="1"), row("b", variant_of="9")], r"problem 2 \('b'\).*none of the"),
        ([row("a", variant_of=None)], r"problem 1 \('a'\): no column 'variant_of'"),
    ],
)
def test_what_is_a_variant_of_nothing_is_named(tmp_path, rows, words):
    with pytest.raises(GeomrlError, match=words):
        load_variants(write(tmp_path / "v.jsonl", rows), TWO)


def test_an_id_of_two_benchmarks_must_be_told_apart(tmp_path):
    both = [*TWO, Problem("1", "amc", "c", "3")]
    with pytest.raises(GeomrlError, match="may be aime/1 or amc/1"):
        load_variants(write(tmp_path / "v.jsonl", [row("a", variant_of="1")]), both)
    (found,) = load_variants(write(tmp_path / "w.jsonl", [row("a", variant_of="amc/1")]), both)
    assert found.meta["variant_of"] == "amc/1"
