"""Anchors are found by the rules that stores are named by."""

from tiny import byte_level_tokenizer, character_tokenizer, metaspace_tokenizer

from geomrl.files import text_hash
from geomrl.models.token_bytes import TokenBytes
from geomrl.models.turns import turn_end_ids
from geomrl.probe.anchors import DEFAULT_ANCHORS, find_anchors
from geomrl.probe.extraction import ANCHOR_RULES
from geomrl.verify.marker import parse_marker

TEXTS = [
    "",
    "so \\boxed{7}",
    "\\boxed{42} is it",
    "thus $\\boxed{\\frac{1}{2}}$.",
    "first \\boxed{1}, no: \\boxed{\\{1, 2\\}}",
    "日本 \\boxed{🙂} é",
    "open \\boxed{12",
    "blank \\boxed{ } and \\boxed{3}",
    "<think>so \\boxed{2}</think> the total is \\boxed{x = \\boxed{7}}",
    "no answer at all",
    "\\fbox{9} \\boxed 5",
    "> \\boxed{8} quoted\n\n\\boxed{ 5 }",
]
MARKERS = ["\\boxed{", "<answer>...</answer>", "re:#### (.+)"]


def test_anchors_that_move_ask_for_another_name_of_the_rules():
    found = []
    for tokenizer in (byte_level_tokenizer(), metaspace_tokenizer(), character_tokenizer()):
        tokens, ends = TokenBytes(tokenizer), turn_end_ids(None, tokenizer)
        for spec in MARKERS:
            opening = {"\\boxed{": "", "<answer>...</answer>": "<answer> 4 </answer>"}.get(
                spec, "#### 4"
            )
            for text in TEXTS:
                ids = tokenizer(text + opening, add_special_tokens=False)["input_ids"]
                for tail in ([], [*sorted(ends), *ids[:3]]):
                    anchors = find_anchors(
                        tokens, [*ids, *tail], parse_marker(spec), [*DEFAULT_ANCHORS, "think_end"],
                        stop_ids=ends,
                    )  # fmt: skip
                    found.append(
                        repr([(a.name, a.token_index, a.flags, a.reason) for a in anchors])
                    )
    assert (ANCHOR_RULES, text_hash(*found)) == ("07383e9fa67fc114", "3433e817fbb555f1"), (
        "an anchor moved: name the rules anew in probe/extraction.py, and the digest here"
    )
