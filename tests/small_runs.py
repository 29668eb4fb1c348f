"""Builders of small runs on disk: a random model, its tokenizer, and rollouts that look real."""

import json

import numpy as np
from tiny import CORPUS, build_model, character_tokenizer

STEPS = ["so 3 + 4 is 7", "first add 17", "then 25 is next", "thus", "we get", "the total is"]


def save_model(folder, architecture="Qwen3", seed=0, **overrides):
    """Save a random model with a character tokenizer, as a user's checkpoint lies on disk."""
    model = build_model(architecture, seed, **overrides)
    tokenizer = character_tokenizer(
        sorted({c for t in [*CORPUS, *STEPS] for c in t} | set("?0123456789"))
    )
    assert len(tokenizer) <= model.config.vocab_size
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rollout_lines(n_problems=4, n_samples=6, seed=0):
    """Rollouts as another tool would write them: right, wrong, and one without an answer."""
    rng = np.random.default_rng(seed)
    lines = []
    for p in range(n_problems):
        for s in range(n_samples):
            steps = ", ".join(rng.choice(STEPS, rng.integers(1, 5)))
            right = s < 3
            answer = f" \\boxed{{{p if right else p + 10 + (s == 5)}}}" if (p, s) != (0, 5) else ""
            line = {"question": f"what is {p} + 0?", "gold": str(p), "completion": steps + answer}
            lines.append(line | {"label": right})
    return lines


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
