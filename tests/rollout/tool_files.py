"""Rollout files of other tools, written by hand in their exact layouts: two problems, two rollouts each.

Of each problem the first response is right and the second is wrong. Every writer returns the path
that a user would name. A layout's source is in the docstring of its module in
`geomrl/rollout/imports/`.
"""

import json
import zipfile

import pandas as pd
from small_runs import write_lines
from test_imported_prompts import TOKENIZER

PROBLEMS = {"What is 2+2?": "4", "What is 3*5?": "15"}
SYSTEM = {"role": "system", "content": "Be brief."}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def seen(question, system="Be kind."):
    """What the policy saw of a question."""
    return (
        f"<|im_start|>system\n{system}<|im_end|>\n"
        f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    )


def stripped(text):
    return text.replace("<|im_start|>", "").replace("<|im_end|>", "")


def responses(gold):
    return [f"So it is \\boxed{{{gold}}}.", "So it is \\boxed{7}."]


ROLLOUTS = [
    (number, sample, question, gold, text)
    for number, (question, gold) in enumerate(PROBLEMS.items())
    for sample, text in enumerate(responses(gold))
]
"""(problem's number, sample, question, gold, response)."""


def ids(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def lm_eval(folder):
    lines = [
        {
            "doc_id": number, "doc": {"question": question, "answer": f"Think.\n#### {gold}"},
            "target": f"Think.\n#### {gold}",
            "arguments": {"gen_args_0": {"arg_0": f"Q: {question}\nA:", "arg_1": {"until": ["Q:"]}}},
            "resps": [responses(gold)], "filtered_resps": [[gold, "7"]], "filter": name,
            "metrics": ["exact_match"], "doc_hash": "d", "prompt_hash": "p", "target_hash": "t",
            "exact_match": 1.0,
        }
        for name in ("strict-match", "flexible-extract")
        for number, (question, gold) in enumerate(PROBLEMS.items())
    ]  # fmt: skip
    return write_lines(folder / "samples_gsm8k_2026-09-01T10-11-12.345678.jsonl", lines)


def verl(folder, step=20):
    lines = [
        {"input": stripped(seen(question)), "output": text, "gts": gold,
         "score": -1.25 if sample else 1.0, "step": step, "acc": not sample, "pred": "4",
         "uid": f"{number}_{sample}_0"}
        for number, sample, question, gold, text in ROLLOUTS
    ]  # fmt: skip
    return write_lines(folder / f"{step}.jsonl", lines)


def trl(folder, step=10):
    rows = [
        {"step": step, "prompt": stripped(seen(question)), "completion": text,
         "format_reward": 1.0, "accuracy_reward": float(not sample), "length_reward": 0.3,
         "advantage": 0.7 - sample}
        for _, sample, question, _, text in ROLLOUTS
    ]  # fmt: skip
    path = folder / "completions" / f"completions_{step:05d}.parquet"
    path.parent.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_parquet(path)
    return path


def ms_swift(folder):
    line = {
        "step": ["5"] * 4,
        "prompt": [seen(question) for _, _, question, _, _ in ROLLOUTS],
        "completion": [text for *_, text in ROLLOUTS],
        "MathAccuracy": [1.0, 0.0, 1.0, 0.0],
        "Format": [1.0, 1.0, 1.0, 1.0],
        "advantages": [0.7, -0.7, 0.7, -0.7],
    }
    again = {**line, "step": ["6"] * 4}
    return write_lines(folder / "completions.jsonl", [line, again])


def open_instruct(folder):
    lines = [
        {"step": 3, "sample_idx": 2 * number + sample, "prompt_idx": number,
         "prompt_tokens": ids(seen(question)), "response_tokens": ids(text + "<|im_end|>"),
         "reward": 10.0 - 10 * sample, "advantage": 0.5, "finish_reason": "stop", "dataset": ["gsm8k"],
         "ground_truth": [gold], "request_info": {"num_calls": 0}, "logprobs": [-0.1]}
        for number, sample, question, gold, text in ROLLOUTS
    ]  # fmt: skip
    return write_lines(folder / "run_rollouts_000000.jsonl", lines)


def episode(number, sample, question, gold, text):
    nodes = [
        {"parent": None, "message": SYSTEM, "sampled": False, "mask": [False] * 2,
         "token_ids": ids("<|im_start|>system\n")[:2]},
        {"parent": 0, "message": user(question), "sampled": False},
        {"parent": 1, "message": assistant(text), "sampled": True},
    ]  # fmt: skip
    whole = ids(seen(question))
    said = ids(text + "<|im_end|>")
    nodes[1]["token_ids"] = whole[2:-3]
    nodes[2]["token_ids"] = [*whole[-3:], *said, *ids("\n")]
    nodes[2]["mask"] = [False] * 3 + [True] * len(said) + [False] * len(ids("\n"))
    trace = {
        "agent": {"name": "agent", "trainable": True}, "nodes": nodes, "stop_condition": "done",
        "rewards": {"correct": {"score": 1.0 - sample, "weight": 1.0}}, "metrics": {},
    }  # fmt: skip
    return {
        "id": f"e{number}{sample}", "env": {"id": "gsm8k", "name": "gsm8k"},
        "task": {"type": "GSM8KTask", "data": {"idx": number, "prompt": question, "answer": gold},
                 "key": f"k{number}", "hash": f"h{number}"},
        "group": {"id": f"g{number}"}, "ok": True, "errors": [], "traces": [trace],
        "run": {"type": "train", "id": "r", "work": {"type": "train", "step": 8,
                                                     "policy": {"start": 7, "end": 8}}},
    }  # fmt: skip


def prime_rl(folder):
    episodes = [episode(*each) for each in ROLLOUTS]
    failed = {**episodes[0], "id": "bad", "ok": False, "errors": [{"type": "E"}], "traces": []}
    for subset in ("all", "effective"):
        path = folder / "rollouts" / "step_8" / "train" / subset / "traces.jsonl"
        path.parent.mkdir(parents=True)
        write_lines(path, [*episodes, failed] if subset == "all" else episodes)
    return folder / "rollouts"


def verifiers(folder):
    lines = [
        {"example_id": number, "prompt": [SYSTEM, user(question)], "completion": [assistant(text)],
         "answer": gold, "info": {}, "reward": 1.0 - sample, "error": None, "is_completed": True,
         "is_truncated": False, "stop_condition": "stop", "metrics": {}}
        for number, sample, question, gold, text in ROLLOUTS
    ]  # fmt: skip
    failed = {**lines[0], "completion": [], "error": "timeout", "is_truncated": False}
    return write_lines(folder / "results.jsonl", [*lines, failed])


def inspect_samples():
    for number, sample, question, gold, text in ROLLOUTS:
        said = assistant(
            [{"type": "reasoning", "reasoning": "Hm."}, {"type": "text", "text": text}]
        )
        yield {
            "id": f"p{number}", "epoch": sample + 1, "input": question, "target": [gold],
            "messages": [SYSTEM, user("attachment://abc" if number else question), said],
            "attachments": {"abc": question},
            "output": {"model": "m", "choices": [{"message": said, "stop_reason": "stop"}]},
            "scores": {"match": {"value": "I" if sample else "C", "answer": gold}},
        }  # fmt: skip


def inspect_ai(folder):
    path = folder / "log.eval"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("_journal/start.json", json.dumps({"version": 2, "eval": {}}))
        for each in inspect_samples():
            archive.writestr(f"samples/{each['id']}_epoch_{each['epoch']}.json", json.dumps(each))
        about = {"task": "sums", "model": "lab/one"}
        archive.writestr("header.json", json.dumps({"status": "success", "eval": about}))
    return path


def nemo_skills(folder):
    for seed in (0, 1):
        lines = [
            {"problem": question, "expected_answer": gold, "generation": text, "finish_reason": "stop",
             "predicted_answer": "4", "symbolic_correct": not sample, "num_generated_tokens": 9,
             "reasoning_content": "Hm."}
            for _, sample, question, gold, text in ROLLOUTS if sample == seed
        ]  # fmt: skip
        write_lines(folder / f"output-rs{seed}.jsonl", lines)
    (folder / "metrics.json").write_text(json.dumps({"all": {"pass@1": {"accuracy": 50}}}))
    return folder


def evalscope(folder):
    for kind in ("predictions", "reviews"):
        (folder / kind / "one").mkdir(parents=True)
    predictions, reviews = [], []
    for place, (number, sample, question, gold, text) in enumerate(ROLLOUTS):
        chat = [{"id": "a", **user(question)}, {"id": "b", **assistant(text)}]
        choice = {"message": assistant(text), "stop_reason": "max_tokens" if sample else "stop"}
        predictions.append({"index": place, "model": "one", "messages": chat, "metadata": {},
                            "model_output": {"model": "one", "choices": [choice]}})  # fmt: skip
        score = {"value": {"acc": 1.0 - sample}, "extracted_prediction": "4", "prediction": text}
        reviews.append({"index": place, "target": gold, "messages": chat, "sample_score": {
            "score": score, "sample_id": place, "group_id": number,
            "generation_index": sample}})  # fmt: skip
    write_lines(folder / "reviews" / "one" / "gsm8k_main.jsonl", reviews)
    return write_lines(folder / "predictions" / "one" / "gsm8k_main.jsonl", predictions)


def opencompass(folder):
    rows = {
        str(place): {"origin_prompt": [{"role": "HUMAN", "prompt": question}], "prediction": text,
                     "gold": gold}
        for place, (_, _, question, gold, text) in enumerate(ROLLOUTS)
    }  # fmt: skip
    path = folder / "gsm8k_0.json"
    path.write_text(json.dumps(rows, indent=4))
    return path


def lighteval(folder):
    rows = [
        {"doc": {"query": question, "choices": ["3", gold], "gold_index": [1], "id": str(number),
                 "task_name": "sums|0"},
         "metric": {"pass@1": 0.5},
         "model_response": {
             "input": seen(question), "input_tokens": ids(seen(question)), "text": responses(gold),
             "output_tokens": [ids(text + "<|im_end|>") for text in responses(gold)],
             "text_post_processed": None, "reasonings": [None, None]}}
        for number, (question, gold) in enumerate(PROBLEMS.items())
    ]  # fmt: skip
    path = folder / "details_sums|0_2026-09-01T10-11-12.345678.parquet"
    pd.DataFrame(rows).to_parquet(path)
    return path


def skythought(folder):
    rows = {
        str(number): {
            "problem": question, "answer": gold, "solution": "Long.", "_index": str(number),
            "prompt": question, "input_conversation": [SYSTEM, user(question)],
            "responses": [{"content": text, "correctness": not place, "reason": ""}
                          for place, text in enumerate(responses(gold))],
            "token_usages": [{"completion_tokens": 9, "prompt_tokens": 9}] * 2,
        }
        for number, (question, gold) in enumerate(PROBLEMS.items())
    }  # fmt: skip
    path = folder / "results.json"
    path.write_text(json.dumps(rows, indent=4))
    return path


def every_eval_ever(folder):
    lines = [
        {"schema_version": "0.2.2", "evaluation_id": "e", "model_id": "lab/one",
         "evaluation_name": "sums", "evaluation_result_id": metric, "sample_id": f"s{number}",
         "interaction_type": "single_turn", "messages": None,
         "input": {"raw": question, "formatted": seen(question), "reference": [gold]},
         "output": {"raw": [text], "reasoning_trace": ["Hm."]},
         "answer_attribution": [], "evaluation": {"score": 1.0 - sample, "is_correct": not sample}}
        for metric in ("exact", "judge") for number, sample, question, gold, text in ROLLOUTS
    ]  # fmt: skip
    return write_lines(folder / "u_samples.jsonl", lines)
