"""Prompts: the statement arrives unchanged, and the ids are those of the rendered text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import byte_level_tokenizer

from geomrl.errors import GeomrlError
from geomrl.problems.prompts import TEMPLATES, default_template, fill_template, render_prompt

STATEMENT = r"Let $S=\{x : x^{2} < 4\}$ and {0}, {problem_id}; find $\frac{1}{2}$."
CHAT = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    "{% endif %}"
)


@pytest.fixture(scope="module")
def raw():
    return byte_level_tokenizer()


@pytest.fixture(scope="module")
def chat():
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = CHAT
    return tokenizer


@pytest.mark.parametrize("template", [*TEMPLATES, "Q: {problem}\nA {set}:"])
def test_templates_keep_the_statement_and_every_other_brace(template):
    text = fill_template(template, STATEMENT)
    assert text.count(STATEMENT) == 1
    assert text.replace(STATEMENT, "{problem}") == TEMPLATES.get(template, template)


@given(st.text(max_size=40))
def test_any_statement_survives(statement):
    assert fill_template("plain", statement) == statement
    assert fill_template("boxed", statement) == (
        statement + "\nPlease reason step by step, and put your final answer within \\boxed{}."
    )


def test_default_templates():
    assert default_template("arithmetic") == "plain"
    assert default_template("arithmetic_train") == "plain"
    assert default_template("aime24") == "boxed"


def test_an_unknown_template_is_named():
    with pytest.raises(GeomrlError, match="'boxd' is neither one of boxed, dapo, plain"):
        fill_template("boxd", "x")


def test_a_tokenizer_without_a_chat_template_continues_the_text(raw):
    prompt = render_prompt(STATEMENT, raw, template="plain")
    assert (prompt.text, prompt.kind) == (STATEMENT, "raw")
    assert prompt.ids == raw(STATEMENT)["input_ids"]
    assert raw.decode(prompt.ids) == STATEMENT


@pytest.mark.parametrize("option", [{"system": "be brief"}, {"thinking": True}])
def test_chat_options_are_refused_without_a_chat_template(raw, option):
    with pytest.raises(GeomrlError, match=f"'{next(iter(option))}' needs a chat template"):
        render_prompt("x", raw, template="plain", **option)


def test_a_chat_template_renders_once(chat):
    prompt = render_prompt(STATEMENT, chat, template="plain", system="be brief")
    assert prompt.kind == "templated"
    assert prompt.text == (f"<s>system\nbe brief</s><s>user\n{STATEMENT}</s><s>assistant\n")
    direct = chat.apply_chat_template(
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": STATEMENT}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
    )["input_ids"]
    assert prompt.ids == list(direct)
    assert prompt.ids.count(chat.bos_token_id) == 3  # none was added on top


def test_special_tokens_are_added_to_raw_text_only(raw, chat):
    from tokenizers import processors

    tokenizers = byte_level_tokenizer(), byte_level_tokenizer()
    for tokenizer in tokenizers:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
        )
    tokenizers[1].chat_template = CHAT
    continued = render_prompt("x", tokenizers[0], template="plain")
    assert continued.ids[0] == tokenizers[0].bos_token_id
    templated = render_prompt("x", tokenizers[1], template="plain")
    assert templated.ids.count(tokenizers[1].bos_token_id) == 2  # both written by the template


def test_thinking_reaches_the_chat_template(chat):
    texts = {
        t: render_prompt("x", chat, template="plain", thinking=t).text for t in (None, True, False)
    }
    assert texts[None] == texts[True]
    assert texts[False] == texts[None] + "<think></think>"
