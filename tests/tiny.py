"""Builders of small random models and tokenizers for the tests."""

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

VOCABULARY = 160
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
ARCHITECTURES = ("Qwen3", "Qwen2", "Llama", "Mistral", "Gemma", "GPT2")


def build_model(architecture="Qwen3", seed=0, **overrides):
    """A randomly initialised causal model of a named family, in fp32, in eval mode."""
    torch.manual_seed(seed)
    if architecture == "GPT2":
        config = transformers.GPT2Config(
            vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, n_positions=512,
            bos_token_id=1, eos_token_id=2, **overrides,
        )  # fmt: skip
        model = transformers.GPT2LMHeadModel(config)
    else:
        extra = {"head_dim": 8} if architecture in ("Qwen3", "Gemma") else {}
        config_class = getattr(transformers, f"{architecture}Config")
        config = config_class(**{**COMMON, **extra, **overrides})
        model = getattr(transformers, f"{architecture}ForCausalLM")(config)
    # Random weights at the usual scale leave the residual stream near the embedding; larger ones
    # make every layer, head and position matter, so that a wrong index shows.
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.2)
        elif "norm" in name or "ln_" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


CORPUS = [
    "so the total is \\boxed{42} and then 17 + 25 = 42",
    "first we add 3 and 4, thus \\boxed{7}.",
    "the answer \\boxed{\\frac{1}{2}} is right \\(x\\) $\\boxed{-3}$",
]


def wrap(tokenizer):
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


SPECIAL = ["<pad>", "<s>", "</s>"]


def byte_level_tokenizer(vocab_size=330, corpus=CORPUS):
    """A byte-level BPE as GPT-2, Qwen and Llama 3 use; merges make `{` join its neighbours."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return wrap(tokenizer)


def byte_tokens():
    return [f"<0x{byte:02X}>" for byte in range(256)]


def metaspace_tokenizer(corpus=CORPUS):
    """A Unigram model with Metaspace and byte fallback, as SentencePiece models have."""
    pieces = {"▁": -2.0}
    for text in corpus:
        for word in text.split():
            for piece in ("▁" + word, word, word[:2], word[-1]):
                pieces.setdefault(piece, -4.0)
    vocabulary = [(token, 0.0) for token in SPECIAL] + [("<unk>", -20.0)]
    vocabulary += [(token, -10.0) for token in byte_tokens()]
    vocabulary += sorted((p, s) for p, s in pieces.items() if p not in dict(vocabulary))
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return wrap(tokenizer)


def character_tokenizer(characters=None):
    """One token a character."""
    characters = characters or sorted(
        {c for text in CORPUS for c in text} | set("日本語🙂é{}\\<>/think\n")
    )
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, "<unk>", *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return wrap(tokenizer)
