"""Speed and peak memory of state extraction, beside what a researcher would otherwise run.

    python benchmarks/probe.py ROLLOUTS.jsonl TOKENIZER_FOLDER [--runs 10] [--limit 64]

A 30M-parameter random Qwen3 with the Qwen2 vocabulary reads the rollouts (problem, response, gold)
whose last anchor lies before token 1,024, or a seeded sample of them (--limit). Four ways, in turn
within one process, so that ratios are paired:

    ours      find anchors, read all layers at them, next-token figures, write the state store
    script    padded batches in file order, whole model, output_hidden_states=True, then index, save
    headless  the same script on the base model (no logits)
    bare      the base model's forward alone, over the very batches that `ours` runs

Peak memory is the high-water mark of one process for each way.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from measuring import in_turn, resident, spread, synchronize
from rich.progress import track
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from geomrl.models.identity import vocabulary_hash
from geomrl.models.loading import LoadedModel
from geomrl.probe.extraction import (
    ExtractionConfig,
    ModelProbe,
    fill_store,
    store_settings,
    token_batches,
)
from geomrl.runs.states import StateStore
from geomrl.verify.marker import parse_marker

ANCHORS = ("before_marker", "marker_end")
MARKER = parse_marker("\\boxed{")
SCRIPT_BATCH = 8
WAYS = ("ours", "script", "headless", "bare")


def build_model():
    """Return the random model: 30M weights, 24M of them the tied embedding."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=151936, hidden_size=160, num_hidden_layers=12, num_attention_heads=5,
        num_key_value_heads=5, head_dim=32, intermediate_size=640, tie_word_embeddings=True,
        max_position_embeddings=4096,
    )  # fmt: skip
    return Qwen3ForCausalLM(config).eval().requires_grad_(False)


def probe_of(model, tokenizer, name):
    """Return the probe of a model in memory, which has no files."""
    weight = next(model.parameters())
    loaded = LoadedModel(
        name=name,
        model=model,
        tokenizer=tokenizer,
        device=weight.device,
        dtype=weight.dtype,
        weights="0" * 16,
        vocabulary=vocabulary_hash(tokenizer),
    )
    return ModelProbe(loaded)


def build_probe(tokenizer_folder):
    return probe_of(build_model(), AutoTokenizer.from_pretrained(tokenizer_folder), "random-30M")


def load_rollouts(path, probe, limit):
    """Return the rollout columns that reading needs, of those whose anchors lie early enough."""
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    encode = probe.loaded.tokenizer
    frame = pd.DataFrame(
        {
            "rollout_id": [str(i) for i in range(len(lines))],
            "prompt_ids": [encode(line["problem"])["input_ids"] for line in lines],
            "response_ids": [encode(line["response"])["input_ids"] for line in lines],
            "answer": None,
        }
    )
    located = probe.locate(frame, MARKER, ANCHORS)
    early = [bool(item.positions) and item.positions[-1] < 1024 for item in located]
    kept = frame[early]
    return kept.sample(min(limit, len(kept)), random_state=0).sort_index().reset_index(drop=True)


def ours(probe, rollouts, folder):
    settings = store_settings(probe, rollouts, MARKER, ExtractionConfig(anchors=ANCHORS))
    store = StateStore.create(folder / "store", settings)
    fill_store(probe, rollouts, marker=MARKER, store=store, shards=range(store.n_shards))
    return store


def states_of(store):
    """Return the states at the first anchor by layer."""
    layers = store.settings.layers
    return {name: torch.from_numpy(store.read(name, ANCHORS[0])[1]) for name in layers}


def script(probe, rollouts, folder, headless=False):
    """What one would write: pad, run, index. Anchors are found by the same function as in `ours`."""
    model = probe.loaded.model.base_model if headless else probe.loaded.model
    device = probe.loaded.device
    located = probe.locate(rollouts, MARKER, ANCHORS)
    kept = []
    with torch.inference_mode():
        for start in range(0, len(rollouts), SCRIPT_BATCH):
            rows = rollouts.iloc[start : start + SCRIPT_BATCH]
            sequences = [
                torch.tensor(p + r)
                for p, r in zip(rows["prompt_ids"], rows["response_ids"], strict=True)
            ]
            ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
            mask = torch.nn.utils.rnn.pad_sequence(
                [torch.ones_like(s) for s in sequences], batch_first=True
            )
            out = model(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                output_hidden_states=True,
                use_cache=False,
            )
            for i, item in enumerate(located[start : start + SCRIPT_BATCH]):
                kept.append(torch.stack([h[i, item.positions] for h in out.hidden_states]).cpu())
    torch.save(kept, folder / "states.pt")
    names = [str(i) for i in range(probe.extractor.decoder.n_layers)] + ["final"]
    first = torch.stack([states[:, 0] for states in kept], dim=1)  # [layers, rollouts, hidden]
    return dict(zip(names, first, strict=True))


def bare(probe, rollouts, folder):
    """The forward alone, in the shards and batches of `ours`."""
    settings = store_settings(probe, rollouts, MARKER, ExtractionConfig(anchors=ANCHORS))
    located = probe.locate(rollouts, MARKER, ANCHORS)
    device = probe.loaded.device
    synchronize(device)
    started = time.perf_counter()
    with torch.inference_mode():
        for first in range(0, len(located), settings.shard_rollouts):
            part = located[first : first + settings.shard_rollouts]
            for batch in token_batches([len(item.ids) for item in part], settings.batch_tokens):
                ids = torch.nn.utils.rnn.pad_sequence(
                    [torch.tensor(part[i].ids) for i in batch], batch_first=True
                )
                probe.loaded.model.base_model(input_ids=ids.to(device), use_cache=False)
    synchronize(device)
    return time.perf_counter() - started


def timed(way, probe, rollouts):
    """Return the seconds that one way takes, and its states (read back outside the clock)."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        if way == "bare":
            return bare(probe, rollouts, Path(folder)), None
        if way == "ours":
            store = ours(probe, rollouts, Path(folder))
            took = time.perf_counter() - started
            return took, states_of(store)
        states = script(probe, rollouts, Path(folder), headless=way == "headless")
        return time.perf_counter() - started, states


def peak_memory(way, args):
    """Return the peak resident memory in MB of a process that goes one way once."""
    command = [sys.executable, __file__, args.rollouts, args.tokenizer, "--only", way]
    command += ["--limit", str(args.limit), "--threads", str(args.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def farthest(ours, theirs):
    """Return the largest difference of states, as a share of the layer's scale."""
    return max(
        float((ours[name].float() - want.float()).abs().max() / want.float().abs().max())
        for name, want in theirs.items()
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("rollouts")
    parser.add_argument("tokenizer")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--limit", type=int, default=10**6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--only", choices=WAYS, help="go one way once and print the peak memory in MB"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    probe = build_probe(args.tokenizer)
    rollouts = load_rollouts(args.rollouts, probe, args.limit)
    if args.only:
        timed(args.only, probe, rollouts)
        print(resident())
        return

    tokens = sum(len(item.ids) for item in probe.locate(rollouts, MARKER, ANCHORS))
    weights = sum(p.numel() for p in probe.loaded.model.parameters())
    print(
        f"{len(rollouts)} rollouts, {tokens} tokens to the last anchor, {weights / 1e6:.1f}M weights"
    )
    seconds = {way: [] for way in WAYS}
    difference = 0.0
    timed("ours", probe, rollouts.head(16))  # warm-up
    for run in track(range(args.runs), description="paired runs"):
        states = {}
        for way in in_turn(WAYS, run):
            took, states[way] = timed(way, probe, rollouts)
            seconds[way].append(took)
        difference = max(difference, farthest(states["ours"], states["script"]))
    for way in WAYS:
        print(f"{way:9} {spread([len(rollouts) / s for s in seconds[way]])} rollouts/s")
    for over in ("script", "headless"):
        ratios = [b / a for a, b in zip(seconds["ours"], seconds[over], strict=True)]
        print(f"speed of ours over {over}: {spread(ratios)}")
    ratios = [a / b for a, b in zip(seconds["ours"], seconds["bare"], strict=True)]
    print(f"time of ours over the bare forward: {spread(ratios)}")
    print(f"largest difference of states, relative to the layer's scale: {difference:.1e}")
    peaks = {way: peak_memory(way, args) for way in WAYS}
    print("peak memory, MB: " + ", ".join(f"{way} {peak:.0f}" for way, peak in peaks.items()))


if __name__ == "__main__":
    main()
