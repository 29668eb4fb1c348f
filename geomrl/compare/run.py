"""Compare a base model with one or several RL checkpoints: rollouts, states, table, verdict.

The 2x2 of {base, RL policy} x {base, RL encoder}: every policy answers the same problems with the
same sampling seeds, and every encoder reads both policies' rollouts. One model is in memory at a
time. Whatever is on disk already is not made again.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from geomrl.compare.anchor_part import anchor_part
from geomrl.compare.comparison import Comparison, open_comparison
from geomrl.compare.corners import POLICIES, Corners, lens_file, policy_folder, states_hash
from geomrl.compare.encoder_change import GeometryEvidence
from geomrl.compare.lens_table import lens_key, write_lens
from geomrl.compare.measures.measure import shown_entry
from geomrl.compare.place import own_measure
from geomrl.compare.policy_change import PolicyEvidence, policy_evidence
from geomrl.compare.rows import CHANGE, COLUMNS, Place, Row
from geomrl.compare.verdict import Evidence, Margins, decide
from geomrl.compare.verdict_file import drawn_together, elsewhere_entry, verdict_entry
from geomrl.errors import GeomrlError
from geomrl.evaluate.identical import identical
from geomrl.evaluate.prompts import asked_of, check_prompts, model_prompts
from geomrl.files import user_code_hashes, write_csv, write_json, write_parquet
from geomrl.models.decoder import find_decoder
from geomrl.models.loading import LoadedModel
from geomrl.models.names import model_label, split_label
from geomrl.models.options import ModelOptions
from geomrl.models.outline import check_one_architecture
from geomrl.probe.anchors import before_the_answer, own_anchors
from geomrl.probe.extraction import ExtractionConfig, ModelProbe
from geomrl.probe.lens import gold_tokens
from geomrl.probe.steps import check_readable, read_states
from geomrl.problems.load import load_problems
from geomrl.problems.problem import Problem
from geomrl.progress import Say, progress_bar
from geomrl.rollout.generate import RolloutConfig, sampling_settings
from geomrl.rollout.steps import make_rollouts
from geomrl.runs.layout import COMPARISON, USER_CODE, VERDICT
from geomrl.runs.manifest import read_manifest, record_step, versions
from geomrl.runs.parts import parts_key
from geomrl.runs.rollouts import problem_keys
from geomrl.runs.run import Run
from geomrl.verify.marker import BOXED, parse_marker
from geomrl.verify.verifier import MathVerifier


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """How to compare.

    `layer` and `anchor` are where the verdict is made; the paper's loss acts there too, so the
    verdict is beside those of all other places. `probe_anchors` get linear probes and RSA's
    permutation test. `measures` are measures of your own, each "FILE.py:NAME" of a
    `geomrl.compare.measures.measure.Measure`.
    """

    layer: str = "final"
    anchor: str = "before_marker"
    probe_anchors: tuple[str, ...] = ("before_marker", "marker_end")
    seed: int = 0
    n_boot: int = 1000
    n_perm: int = 999
    margins: Margins = field(default_factory=Margins)
    measures: tuple[str, ...] = ()


def compare_models(
    base: str,
    rl: str | Sequence[str],
    problems: str,
    out: Path | str,
    *,
    config: CompareConfig | None = None,
    rollouts: RolloutConfig | None = None,
    extraction: ExtractionConfig | None = None,
    limit: int | None = None,
    columns: dict[str, str] | None = None,
    marker: str = BOXED,
    own_prompts: bool = False,
    options: ModelOptions | None = None,
    show: bool = True,
    say: Say = lambda line: None,
) -> Comparison:
    """Compare models before and after RL, and name what changed.

    Its parameters are those of `geomrl compare`, in groups.

    Args:
        base: a hub id, a folder, "reasoner", a training run, or a step of one (RUN@25).
        rl: one checkpoint, or several for a trajectory; "LABEL=MODEL" names one in the tables.
        problems: benchmark names with commas, or a JSONL/parquet file. Take held-out ones: the
            alignment loss raises the cosine that is measured on the problems it trained on.
        out: the folder; made, or resumed.
        config: place of the verdict, margins, seed, draws.
        rollouts: samples a problem and how they are drawn.
        extraction: layers and anchors.
        limit: the first so many problems only.
        columns: a problem file's column names, ours -> its.
        marker: the answer marker's specification.
        own_prompts: let models have different prompts (each its own chat template) instead of
            refusing; what differs is then prompt and weights together, and a remark says so.
        options: how to load the models.
        show: show progress bars.
        say: called with remarks.

    Returns:
        The opened folder: `table`, `verdicts`.

    Raises:
        GeomrlError: two benchmarks share a problem, the models' prompts, vocabularies or sizes
            differ, or the folder contains a comparison of other settings.
    """
    run = Path(out)
    config, rollouts = config or CompareConfig(), rollouts or RolloutConfig()
    extraction = extraction or ExtractionConfig()
    named = [split_label(text) for text in (base, *([rl] if isinstance(rl, str) else rl))]
    names = [name for _, name in named]
    labels = _labels(named[1:])
    check_settings(names, config, rollouts, extraction)
    own = [own_measure(spec) for spec in config.measures]
    chosen = load_problems(problems, limit=limit, columns=columns)
    check_distinct(chosen)
    options = options or ModelOptions()
    check_one_architecture([options.outline(name) for name in names])
    first = named[0][0] or model_label(names[0])
    check_prompts(
        [
            model_prompts(
                label, name, chosen, rollouts, trust_remote_code=options.trust_remote_code
            )
            for label, name in zip([first, *labels], names, strict=True)
        ],
        own=own_prompts,
    )
    settings = {
        "problems": problems, "limit": limit, "n_problems": len(chosen), "base": names[0],
        "marker": parse_marker(marker).spec, **asdict(config), "rollouts": sampling_settings(rollouts),
        "layers": extraction.layers, "anchors": extraction.anchors,
    }  # fmt: skip
    settings = {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
    del settings["measures"]
    code = [*config.measures, *own_anchors(extraction.anchors)]
    if code:
        settings[USER_CODE] = user_code_hashes(code)
    begun = any(run.glob("policies/*/rollouts.parquet"))
    free = ("rollouts.chunk", *_user_code(run), *(f"{USER_CODE}.{spec}" for spec in code))
    record_step(run, "compare", settings, begun=begun, free=free)
    maker = _Maker(
        out=run,
        problems=problems,
        rollouts=rollouts,
        extraction=extraction,
        limit=limit,
        columns=columns,
        marker=marker,
        options=options,
        show=show,
        say=say,
    )
    keys = maker.make(names)
    entries, tables = [], []
    for name, label, key in zip(names[1:], labels, keys[1:], strict=True):
        corners = Corners(run, keys[0], key)
        asked = [
            asked_of(role, corners.runs[key].rollouts)
            for role, key in ((first, "base"), (label, "rl"))
        ]
        notes = check_prompts(asked, own=own_prompts)
        table, entry = _analyse(
            corners, label, config=config, marker=marker, notes=notes, show=show, say=say
        )
        tables.append(table)
        entries.append({"model": name, "key": key, **entry})
    whole = pd.concat(tables, ignore_index=True).assign(seed=config.seed)[list(COLUMNS)]
    write_parquet(run / COMPARISON, whole)
    write_csv((run / COMPARISON).with_suffix(".csv"), whole.round(6))
    shown = {"measures": [shown_entry(measure) for measure in own]} if own else {}
    write_json(
        run / VERDICT,
        {
            "base": names[0], "problems": problems, "n_problems": len(chosen), "n_samples": rollouts.n,
            "place": {"layer": config.layer, "anchor": config.anchor}, "seed": config.seed,
            "margins": asdict(config.margins), "checkpoints": entries, "versions": versions(),
            **shown,
        },
    )  # fmt: skip
    return open_comparison(run)


def _user_code(run: Path) -> list[str]:
    """Return the names of the settings under which code of the user's was recorded before."""
    settings = read_manifest(run).get("compare", {}).get("settings", {})
    return [f"{USER_CODE}.{spec}" for spec in settings.get(USER_CODE, {})]


def check_settings(
    names: Sequence[str],
    config: CompareConfig,
    rollouts: RolloutConfig,
    extraction: ExtractionConfig,
) -> None:
    """Refuse what cannot be compared before a model is loaded.

    Raises:
        GeomrlError: see the message.
    """
    if len(names) < 2:
        raise GeomrlError("compare needs a base model and at least one other: BASE RL ...")
    if rollouts.n < 2:
        raise GeomrlError(
            f"-n {rollouts.n}: pairs of rollouts are compared, so take two a problem or more"
        )
    if config.anchor not in extraction.stored:
        raise GeomrlError(
            f"anchor {config.anchor} of the verdict is not among those read "
            f"({', '.join(extraction.stored)}); add it to --anchors or choose another --anchor"
        )
    if extraction.layers is not None and config.layer not in extraction.layers:
        raise GeomrlError(
            f"layer {config.layer} of the verdict is not among those read "
            f"({', '.join(extraction.layers)}); add it to --layers or choose another --layer"
        )


def check_distinct(problems: Sequence[Problem]) -> None:
    """Refuse a problem that is in the set twice: its two copies would count as two problems.

    Raises:
        GeomrlError: names the pair.
    """
    seen: dict[str, Problem] = {}
    for problem in problems:
        text = " ".join(problem.statement.split())
        other = seen.setdefault(text, problem)
        if other is not problem:
            raise GeomrlError(
                f"problem {problem.problem_id} of {problem.benchmark} has the same text as "
                f"{other.problem_id} of {other.benchmark}: intervals count problems as independent, "
                "so leave one of them out"
            )


@dataclass(frozen=True, kw_only=True)
class _Maker:
    """Makes rollouts, states and lenses, one model in memory at a time."""

    out: Path
    problems: str
    rollouts: RolloutConfig
    extraction: ExtractionConfig
    limit: int | None
    columns: dict[str, str] | None
    marker: str
    options: ModelOptions
    show: bool
    say: Say

    def make(self, names: Sequence[str]) -> list[str]:
        """Make all corners; return the models' keys."""
        base = self._load(names[0])
        key, vocabulary, width = base.key, base.vocabulary, _width(base)
        check_readable(base, self.extraction)
        run = self._answer(base)
        self._read(base, run, base.key)
        targets = _targets(run, base)
        self._lens(base, run, targets)
        del base
        keys, runs = [key], []
        for name in names[1:]:
            gc.collect()
            loaded = self._load(name)
            if (loaded.vocabulary, _width(loaded)) != (vocabulary, width):
                raise GeomrlError(
                    f"{name}: another vocabulary, width or depth than {names[0]}'s; compare "
                    "checkpoints of one architecture"
                )
            check_readable(loaded, self.extraction)
            own = self._answer(loaded)
            for policy in (run, own):
                self._read(loaded, policy, loaded.key)
                self._lens(loaded, policy, targets)
            keys.append(loaded.key)
            runs.append(own)
            del loaded
        gc.collect()
        base = self._load(names[0])
        for own in runs:
            self._read(base, own, key)
            self._lens(base, own, targets)
        return keys

    def _load(self, name: str) -> LoadedModel:
        return self.options.load(name).as_filed(self.out / "policies")

    def _answer(self, loaded: LoadedModel) -> Run:
        return make_rollouts(
            loaded, self.problems, policy_folder(self.out, loaded.key), config=self.rollouts,
            limit=self.limit, columns=self.columns, marker=self.marker, show=self.show,
            say=self.say,
        )  # fmt: skip

    def _read(self, loaded: LoadedModel, run: Run, key: str) -> None:
        self.say(f"{key} reads the rollouts of {run.path.name}")
        read_states(
            loaded, run.path, config=self.extraction, options=self.options, show=self.show,
            say=self.say,
        )  # fmt: skip

    def _lens(self, loaded: LoadedModel, run: Run, targets: dict[str, int]) -> None:
        path = lens_file(self.out, run.path.name, loaded.key)
        key = parts_key(states=states_hash(run, loaded.key), targets=targets)
        if lens_key(path) == key:
            return
        settings = run.store(loaded.key).settings
        with progress_bar("logit lens", "layer x anchor", show=self.show) as bar:
            bar.set(0, len(settings.layers) * sum(map(before_the_answer, settings.anchors)))
            write_lens(
                ModelProbe(loaded), run, targets=targets, path=path, key=key, progress=bar.advance
            )


def _width(loaded: LoadedModel) -> tuple[int, int]:
    """Return the width of a state and the number of layers."""
    return (
        loaded.model.get_output_embeddings().weight.shape[1],
        find_decoder(loaded.model.base_model).n_layers,
    )


def _targets(run: Run, loaded: LoadedModel) -> dict[str, int]:
    """Return the first token of each problem's gold answer, by "benchmark/problem_id"."""
    rollouts = run.rollouts.assign(problem_id=problem_keys(run.rollouts))
    rows = run.store(loaded.key).rows()
    rows = rows[rows["anchor"] == "before_answer"][["rollout_id", "next_token_id"]]
    labelled = rows.merge(rollouts[["rollout_id", "problem_id", "verdict"]], on="rollout_id")
    first = rollouts.drop_duplicates("problem_id").dropna(subset="gold")
    golds = dict(zip(first["problem_id"], first["gold"], strict=True))
    return gold_tokens(labelled, golds, loaded.tokenizer)


def _labels(named: Sequence[tuple[str | None, str]]) -> list[str]:
    """Return the checkpoints' names for tables: the user's, else short ones where they differ.

    Raises:
        GeomrlError: two of them are the same.
    """
    short = [model_label(name) for _, name in named]
    labels = [
        label or (own if short.count(own) == 1 else name)
        for (label, name), own in zip(named, short, strict=True)
    ]
    twice = [label for label in labels if labels.count(label) > 1]
    if twice:
        raise GeomrlError(f"two checkpoints are called '{twice[0]}'; name them: LABEL=MODEL")
    return labels


def _analyse(
    corners: Corners,
    label: str,
    config: CompareConfig,
    marker: str,
    notes: Sequence[str],
    show: bool,
    say: Say,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return one checkpoint's rows, and its entry in the verdict file; `notes` are among its remarks."""
    with MathVerifier(marker=parse_marker(marker)) as verifier:
        base, rl = corners.policy_tables(verifier)
    policy = policy_evidence(base, rl, seed=config.seed, n_boot=config.n_boot)
    if config.layer not in corners.layers:
        raise GeomrlError(
            f"layer {config.layer} of the verdict is not stored ({', '.join(corners.layers)})"
        )
    rows = _policy_rows(policy)
    geometry: dict[tuple[str, str], GeometryEvidence | None] = {}
    n_layers, total = len(corners.layers), len(corners.layers) * len(corners.anchors)
    with progress_bar("comparing", "layer x anchor", show=show) as bar:
        bar.set(0, total)
        for number, anchor in enumerate(corners.anchors, start=1):
            found, evidence = anchor_part(corners, anchor, config, bar.advance)
            bar.set(number * n_layers, total)  # also where it was finished before
            rows += found
            geometry |= {(layer, anchor): each for layer, each in evidence.items()}
    verdict = decide(Evidence(policy, geometry[config.layer, config.anchor]), config.margins)
    place = Place(config.layer, config.anchor)
    together = drawn_together(rows, place, verdict.components, config.margins.cosine)
    if together is not None:
        verdict = replace(verdict, remarks=(*verdict.remarks, together))
    alike = identical(*(corners.runs[role].rollouts for role in POLICIES))
    remarks = (*([alike] if alike else []), *verdict.remarks, *notes)
    verdict = replace(verdict, remarks=remarks)
    for remark in verdict.remarks:
        say(f"note: {label}: {remark}")
    others = [
        elsewhere_entry(layer, anchor, decide(Evidence(policy, found), config.margins))
        for (layer, anchor), found in geometry.items()
        if found is not None and (layer, anchor) != (config.layer, config.anchor)
    ]
    entry = {"checkpoint": label, **verdict_entry(verdict), "elsewhere": others}
    return pd.DataFrame(rows).assign(checkpoint=label), entry


def _policy_rows(policy: PolicyEvidence) -> list[Row]:
    place = Place("", "")
    return [
        place.row("pass@1", CHANGE, "", policy.pass_at_1),
        place.row("answer_distance", CHANGE, "", policy.answers),
        place.row("log_length", CHANGE, "", policy.log_length),
    ]
