"""What each of two ranks runs: an engine of its own beside the trainer's process group."""

import sys

import torch
import torch.distributed as dist

from geomrl.models.loading import load_model
from geomrl.rollout.engine import Request, Sampling
from geomrl.rollout.engines.vllm import VLLMEngine


def check(loaded, engine, n_requests, max_tokens):
    prompt = tuple(loaded.tokenizer("17 + 25 = ").input_ids)
    requests = [Request(prompt, seed) for seed in range(n_requests)]
    for done in engine.generate(requests, Sampling(max_tokens=max_tokens)):
        with torch.no_grad():
            logits = loaded.model(torch.tensor([[*prompt, *done.ids]])).logits[0]
        scores = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        want = scores[range(len(done.ids)), done.ids]
        assert (want - torch.tensor(done.logprobs)).abs().max() < 1e-4


def main(folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    loaded = load_model(folder, device="cpu")
    engine = VLLMEngine(folder, dtype="float32", device="cpu")
    # Other numbers of requests and tokens, other weights, and a call that the other rank lacks.
    check(loaded, engine, 4 + 8 * rank, 10 + 20 * rank)
    with torch.no_grad():
        for weight in loaded.model.parameters():
            weight.mul_(1.1 + 0.1 * rank)
    engine.load_weights(loaded.model.named_parameters())
    if rank == 1:
        check(loaded, engine, 6, 20)
    dist.barrier()
    engine.close()
    # Shutting vLLM down leaves the trainer's group alone.
    total = torch.tensor([rank + 1.0])
    dist.all_reduce(total)
    assert total.item() == 3
    dist.destroy_process_group()
    sys.stdout.write(f"rank-{rank}-done\n")


if __name__ == "__main__":
    main(sys.argv[1])
