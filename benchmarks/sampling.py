"""Time of drawing tokens beside the model's forward, at the vocabulary and shape of Qwen2.5-0.5B.

    OMP_NUM_THREADS=1 python benchmarks/sampling.py [--runs 15] [--rows 64] [--context 256]

Random weights (hidden 896, 24 layers, 14 heads, 2 of keys and values, 4,864 inside, 151,936 tokens,
tied), float32. Within one process, in turn: a forward of one token a row over a filled cache, then
every way of drawing from the same logits by both samplers:

    before    log-probabilities with all of the vocabulary sorted for top-p, Gumbel noise for each token
    after     `geomrl.rollout.engines.block_draws`

A random model's own logits are almost flat, which no trained one's are, so the logits drawn from are
made: Gaussian, scaled to spread as
    sharp     median nucleus (.95) of a few tokens
    mixed     of every 16 rows one flat, two wide, the others sharp
    flat      nuclei of most of the vocabulary: the worst case

CPU time of the process; the share of drawing is draw / (draw + forward), paired within a run.
"""

import argparse
import time

import torch
from measuring import between_quartiles, in_turn
from rich.progress import track
from transformers import Qwen2Config, Qwen2ForCausalLM

from geomrl.rollout.engine import Sampling
from geomrl.rollout.engines.block_draws import draw_tokens, kept_weights
from geomrl.rollout.engines.token_draws import RowNoise, processed_logprobs

VOCABULARY = 151_936
SAMPLINGS = {
    "neither": Sampling(),
    "top-p .95": Sampling(top_p=0.95),
    "top-k 20": Sampling(top_k=20),
    "top-k 20, top-p .95": Sampling(top_k=20, top_p=0.95),
}
SHARP, WIDE, FLAT = 9.0, 3.5, 0.6  # standard deviation of the logits
SPREADS = {
    "sharp": [SHARP],
    "mixed": [FLAT, WIDE, WIDE, *[SHARP] * 13],
    "flat": [FLAT],
}


def build_model():
    """Return a random model of Qwen2.5-0.5B's shape: 494M weights."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=896, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, intermediate_size=4864, tie_word_embeddings=True,
        max_position_embeddings=4096,
    )  # fmt: skip
    return Qwen2ForCausalLM(config).eval().requires_grad_(False)


def make_logits(spread, rows):
    """Return Gaussian logits whose rows have the spreads in turn."""
    scales = torch.tensor([SPREADS[spread][row % len(SPREADS[spread])] for row in range(rows)])
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, VOCABULARY, generator=generator) * scales[:, None]


def before(logits, sampling, noise, step):
    """Sampler 1, as geomrl 0.1.0 drew from every vocabulary."""
    scores = processed_logprobs(logits.float(), sampling)
    torch.isfinite(scores.amax(-1)).all()
    tokens = noise.draw(scores, range(len(logits)))
    return tokens, scores.gather(-1, tokens[:, None])[:, 0]


def cpu_seconds(call, *arguments):
    started = time.process_time()
    call(*arguments)
    return time.process_time() - started


class Forward:
    """A forward of one token a row, over the same cache each time."""

    def __init__(self, rows, context):
        self.model = build_model()
        self.ids = torch.randint(VOCABULARY, (rows, 1))
        prompt = torch.randint(VOCABULARY, (1, context))
        self.cache = self.model(prompt, use_cache=True, logits_to_keep=1).past_key_values
        self.cache.batch_repeat_interleave(rows)

    def __call__(self):
        self.model(self.ids, past_key_values=self.cache, use_cache=True)
        self.cache.crop(-1)


def percent(values):
    middle, rest = between_quartiles([100 * value for value in values], 1).split(" ", 1)
    return f"{middle} % {rest}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = args.rows
    logits = {spread: make_logits(spread, rows) for spread in SPREADS}
    seeds = torch.arange(rows)
    noise = RowNoise(range(rows), torch.device("cpu"))
    ways = {
        "before": lambda x, sampling, step: before(x, sampling, noise, step),
        "after": lambda x, sampling, step: draw_tokens(x, sampling, seeds, step),
    }
    arms = [(s, k, way) for s in logits for k in SAMPLINGS for way in ways]
    seconds = {arm: [] for arm in arms}
    share = {arm: [] for arm in arms}
    forwards = []
    with torch.inference_mode():
        forward = Forward(rows, args.context)
        forward()  # warm-up
        for run in track(range(args.runs), description="paired runs"):
            ran = cpu_seconds(forward)
            forwards.append(ran)
            for spread, kind, way in in_turn(arms, run):
                took = cpu_seconds(ways[way], logits[spread], SAMPLINGS[kind], run)
                seconds[spread, kind, way].append(took)
                share[spread, kind, way].append(took / (took + ran))
    print(
        f"{rows} rows, {VOCABULARY} tokens, {args.context} in the cache, {args.threads} thread(s)"
    )
    print(f"forward: {between_quartiles(forwards)} CPU-s (median, quartiles; n = {args.runs})\n")
    print("| logits | median nucleus | sampling | drawing before, ms | after, ms | before / after |"
          " share of a step before | after | after / forward |")  # fmt: skip
    print("|---" * 9 + "|")
    for spread, rows_of in logits.items():
        kept = (kept_weights(rows_of, Sampling(top_p=0.95)) > 0).sum((1, 2))
        for kind in SAMPLINGS:
            old, new = seconds[spread, kind, "before"], seconds[spread, kind, "after"]
            cells = [
                *(spread, f"{int(kept.median()):,}", kind),
                *(between_quartiles([1000 * s for s in each], 0) for each in (old, new)),
                between_quartiles([a / b for a, b in zip(old, new, strict=True)], 1),
                *(percent(share[spread, kind, way]) for way in ways),
                percent([a / b for a, b in zip(new, forwards, strict=True)]),
            ]
            print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
