"""The figures of `gpu.py` as one markdown table."""


def table(found) -> str:
    """Return the table, a column a size of model, with what was measured on above it."""
    sections = found["sections"]
    sizes = list(dict.fromkeys(each["size"] for each in sections if each["size"]))
    named = {(each["section"], each["size"]): each for each in sections}
    machine, packages = named["machine", ""], found["packages"]
    versions = ", ".join(f"{name} {number}" for name, number in packages.items())
    head = (
        f"{found['nvidia_smi'] or machine.get('device')}, {found['cores']} CPU cores; {versions}; "
        f"commit {str(found['commit'])[:10]}{' with changes' if found['changed'] else ''}, "
        f"seed {machine.get('seed')}, {found['seconds']:.0f} s in all."
    )
    lines = [head, "", f"| | {' | '.join(sizes)} |", "|---" * (len(sizes) + 1) + "|"]
    for section, words, shown in ROWS:
        ran = [named.get((section, size)) for size in sizes]
        if any(ran):
            lines.append(f"| {words} | {' | '.join(_cell(each, shown) for each in ran)} |")
    if tests := named.get(("tests", "")):
        outcomes = [said.split(":")[0] for said in tests.get("outcomes", {}).values()]
        counts = ", ".join(f"{outcomes.count(word)} {word}" for word in dict.fromkeys(outcomes))
        lines += ["", f"Tests marked `gpu`: {counts or 'none ran'}."]
    lines += [
        f"\n{each['section']} {each['size']} failed: {each['error'].splitlines()[-1]}"
        for each in sections
        if each["error"]
    ]
    return "\n".join(lines) + "\n"


def _cell(section, shown):
    """Return a figure in words; a section that failed before it has none."""
    if section is None:
        return ""
    try:
        return shown(section)
    except (KeyError, TypeError):
        return "failed" if section["error"] else "-"


def _spread(figure, digits=2, unit=""):
    """Return a median with its spread and how many there are."""
    said = f"{figure['median']:.{digits}f}{unit}"
    limits = ""
    if figure["low"] is not None:
        limits = f"{figure['of']} {figure['low']:.{digits}f} to {figure['high']:.{digits}f}, "
    return f"{said} ({limits}n = {figure['n']})"


def _gb(megabytes):
    return f"{megabytes / 1024:.2f}"


def _deepest(section, key):
    """Return a layer's figure at the first layer, in the middle, at the last one and after the norm."""
    layers = section["layers"]
    names = list(layers)
    chosen = dict.fromkeys([names[1], names[(len(names) - 1) // 2], names[-2], names[-1]])
    return ", ".join(f"{name}: {layers[name][key]:.1e}" for name in chosen)


ROWS = (
    ("probe", "reading: rollouts (tokens)", lambda s: f"{s['rollouts']} ({s['tokens']})"),
    ("probe", "rollouts/s", lambda s: _spread(s["rollouts_per_second"], 1)),
    ("probe", "faster than the usual script", lambda s: _spread(s["script_over_ours"], 2, "x")),
    (
        "probe",
        "than the script without the head",
        lambda s: _spread(s["headless_over_ours"], 2, "x"),
    ),
    ("probe", "time over a bare forward", lambda s: _spread(s["ours_over_bare"], 2, "x")),
    (
        "probe",
        "peak memory, GB: ours, script, without head, bare",
        lambda s: ", ".join(map(_gb, s["peak_mb"].values())),
    ),
    ("probe", "states beside the script's", lambda s: f"{s['farthest_state']['script']:.1e}"),
    (
        "precision",
        "bfloat16 against float32, 1 - cosine by layer, median",
        lambda s: _deepest(s, "cosine_gap_median"),
    ),
    ("precision", "relative error by layer, median", lambda s: _deepest(s, "error_median")),
    ("update", "update: rollouts (tokens)", lambda s: f"{s['rollouts']} ({s['tokens']})"),
    ("update", "activations checkpointed", lambda s: str(s["activation_checkpointing"]).lower()),
    ("update", "seconds without alignment", lambda s: _spread(s["seconds"]["plain"], 3)),
    ("update", "response tokens/s", lambda s: _spread(s["response_tokens_per_second"], 0)),
    ("update", "MFU", lambda s: _spread(s["mfu"], 3)),
    ("update", "time with alignment over without", lambda s: _spread(s["aligned_over_plain"], 3)),
    (
        "update",
        "peak memory, GB: without, with",
        lambda s: ", ".join(_gb(s["peak_mb"][arm]["whole"]) for arm in ("plain", "aligned")),
    ),
    ("update", "faster than TRL", lambda s: _spread(s["trl"]["trl_over_ours"], 2, "x")),
    (
        "update",
        "TRL's micro-batch, peak memory in GB",
        lambda s: (
            f"{s['trl']['rows']} rows, "
            + _gb(s["trl"]["micro_batches"][s["trl"]["rows"]]["peak_mb"])
        ),
    ),
)
