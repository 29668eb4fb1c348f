"""Rows of layers in forwards that others run: the states that geomrl's training reads, and no more."""

import subprocess
import sys

import pytest
import torch
from tiny import build_model, byte_level_tokenizer
from zoo import zoo_model

from geomrl.errors import GeomrlError
from geomrl.integrations.alignment import AlignmentHook, ResponseAnchor
from geomrl.models.token_bytes import TokenBytes
from geomrl.probe.extractor import Extractor, Rows
from geomrl.verify.marker import BOXED, parse_marker

IDS = torch.randint(3, 160, (4, 9), generator=torch.Generator().manual_seed(0))
ROWS = Rows(torch.tensor([0, 0, 2, 3]), torch.tensor([1, 8, 4, 0]))
MODELS = {
    "Qwen3": lambda: build_model("Qwen3"),
    "GPT2": lambda: build_model("GPT2"),
    "nanochat": lambda: zoo_model("nanochat"),  # its norm runs on the embedding too
}


def run(model):
    return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("name", MODELS)
def test_states_are_those_of_the_extractor(name):
    model = MODELS[name]()
    hook = AlignmentHook(model, ["final", "0", "2", -2])
    with torch.no_grad(), hook.reading(ROWS, IDS.shape) as states:
        run(model)
    with torch.no_grad():
        wanted = Extractor(model).read({"input_ids": IDS, "use_cache": False}, ROWS, hook.layers)
    assert tuple(states) == hook.layers == ("0", "2", "final")
    assert all(torch.equal(states[layer], wanted.states[layer]) for layer in states)


def test_a_forward_outside_is_left_alone():
    model = build_model()
    with torch.no_grad():
        before = run(model)
        hook = AlignmentHook(model)
        with hook.reading(ROWS, IDS.shape):
            inside = run(model)
        assert torch.equal(before, inside)
        assert torch.equal(before, run(model))
    hook.remove()
    assert not any(module._forward_hooks for module in model.modules())


def test_gradients_flow_through_what_is_read():
    model = build_model()
    hook = AlignmentHook(model, ["1"])
    with hook.reading(ROWS, IDS.shape) as states:
        run(model)
    states["1"].square().sum().backward()
    layers = model.model.layers
    assert layers[0].mlp.up_proj.weight.grad.norm() > 0
    assert layers[1].mlp.up_proj.weight.grad is None


def test_a_cut_forward_gives_the_same_states_and_runs_nothing_behind():
    model = build_model()
    ran = []
    model.model.layers[2].register_forward_hook(lambda *_: ran.append("layer"))
    model.lm_head.register_forward_hook(lambda *_: ran.append("head"))
    for layers, behind in ((["final"], ["layer"]), (["0", "1"], [])):
        hook = AlignmentHook(model, layers)
        with torch.no_grad(), hook.reading(ROWS, IDS.shape) as whole:
            run(model)
        ran.clear()
        with torch.no_grad(), hook.reading(ROWS, IDS.shape, cut=True) as cut:
            run(model)
        assert ran == behind
        assert all(torch.equal(cut[name], whole[name]) for name in whole)
        hook.remove()


@pytest.mark.parametrize(
    ("forward", "told"),
    [
        (lambda model: None, "layers final were not run"),
        (lambda model: (run(model), run(model)), "ran twice"),
        (lambda model: [model(input_ids=IDS[:2]), model(input_ids=IDS[2:])], r"\[2, 9\].*\[4, 9\]"),
        (lambda model: model(input_ids=IDS.reshape(1, -1)), r"\[1, 36\].*packs"),
    ],
)
def test_another_forward_is_refused(forward, told):
    model = build_model()
    hook = AlignmentHook(model)
    with pytest.raises(GeomrlError, match=told), hook.reading(ROWS, IDS.shape):
        forward(model)
    run(model)  # disarmed


def test_an_unknown_layer_is_refused():
    with pytest.raises(GeomrlError, match="layer '4' is unknown"):
        AlignmentHook(build_model(), ["4"])


def test_the_anchor_of_a_response():
    tokenizer = byte_level_tokenizer()
    ids = tokenizer("so the total is \\boxed{42} and")["input_ids"]
    text = [tokenizer.decode(ids[:n]) for n in range(len(ids) + 1)]
    marked = next(n for n, so_far in enumerate(text) if "\\" in so_far) - 1

    def anchor(name):
        return ResponseAnchor(TokenBytes(tokenizer), parse_marker(BOXED), frozenset({2}), name)

    assert anchor("before_marker").index(ids, seed=0) == marked - 1
    assert anchor("before_marker").index(ids[marked:], seed=0) == -1
    assert anchor("before_marker").index([2, *ids], seed=0) is None
    drawn = {anchor("random").index(ids, seed) for seed in range(200)}
    assert drawn == set(range(len(ids)))
    assert anchor("random").index(ids[:marked], seed=0) is None


def test_only_torch_is_imported():
    """Neither geomrl's own engine nor what reads with it: those change a process."""
    script = (
        "import sys, geomrl.integrations.alignment\n"
        "print({'nnsight', 'deepspeed', 'trl', 'verl', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
