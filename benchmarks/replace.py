"""Cost of `geomrl probe --replace`: whole forwards against forwards that begin at the anchor.

    OMP_NUM_THREADS=1 python benchmarks/replace.py [--depth 24] [--hidden 896] [--trials 2] [--rounds 2]

A random Qwen2 (by default of the 0.5B's shape, with a vocabulary of 32,000); trials of random tokens,
450 to 550 before the anchor and 15 to 25 from it on. Both ways replace the same states in one process,
each first in turn; time is the process's CPU time. What they return is compared too.
"""

import argparse
import statistics
import time
from unittest import mock

import numpy as np
import torch
from measuring import in_turn
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from geomrl.models.loading import LoadedModel
from geomrl.probe import intervention
from geomrl.probe.extraction import ModelProbe
from geomrl.probe.intervention import replace
from geomrl.probe.trials import Trial

WAYS = {"whole": 10**9, "from the anchor": 0}
VOCABULARY = 32000


def build_probe(depth, hidden):
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=hidden, num_hidden_layers=depth,
        num_attention_heads=hidden // 64, num_key_value_heads=max(hidden // 448, 1),
        intermediate_size=4864 * hidden // 896, tie_word_embeddings=True,
        max_position_embeddings=4096,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval().requires_grad_(False)
    words = {f"w{i}": i for i in range(VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0"))
    )
    loaded = LoadedModel(
        name="random", model=model, tokenizer=tokenizer, device=torch.device("cpu"),
        dtype=torch.float32, weights="0" * 16, vocabulary="0",
    )  # fmt: skip
    return ModelProbe(loaded)


def build_trials(n):
    """Two problems; the first two trials are correct, and of the others every second."""
    draw = np.random.default_rng(0)
    trials = []
    for i in range(n):
        anchor, tail, answer = draw.integers(450, 551), draw.integers(15, 26), draw.integers(3, 9)
        end = int(anchor + tail)
        trials.append(
            Trial(
                rollout_id=str(i), problem=f"p{i % 2}", correct=i < 2 or i % 4 < 2,
                ids=draw.integers(10, VOCABULARY, end).tolist(), anchor=int(anchor),
                answer=range(int(end - answer), end),
            )
        )  # fmt: skip
    return trials


def timed(probe, trials, layers, way, batch_tokens):
    with mock.patch.object(intervention, "LONG", WAYS[way]):
        started = time.process_time()
        table = replace(probe, trials, layers, anchor="a", batch_tokens=batch_tokens, say=print)
        return time.process_time() - started, table


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=24)
    parser.add_argument("--hidden", type=int, default=896)
    parser.add_argument("--trials", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch-tokens", type=int, default=2400)
    args = parser.parse_args()
    probe, trials = build_probe(args.depth, args.hidden), build_trials(args.trials)
    layers = probe.layers(None)
    seconds = {way: [] for way in WAYS}
    tables = {}
    for turn in range(args.rounds):
        for way in in_turn(list(WAYS), turn):
            spent, tables[way] = timed(probe, trials, layers, way, args.batch_tokens)
            seconds[way].append(spent)
            print(f"round {turn + 1}, {way}: {spent:.1f} CPU-s", flush=True)
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    whole, found = tables.values()
    apart = (whole["change"] - found["change"]).abs().max()
    print(
        f"{len(trials)} trials, {len(layers)} layers: {len(whole) + len(trials)} forwards of a trial"
    )
    for way, each in seconds.items():
        print(f"{way}: {statistics.median(each):.1f} CPU-s ({min(each):.1f} to {max(each):.1f})")
    print(f"ratio: {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})")
    print(f"largest difference of a change: {apart:.1e} nats, of {whole['change'].abs().max():.2f}")


if __name__ == "__main__":
    main()
