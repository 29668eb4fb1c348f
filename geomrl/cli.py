"""The command line: parse, call, print. A command imports the heavy libraries that it needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geomrl.cli_compare import compare_app
from geomrl.cli_eval import eval_app
from geomrl.cli_options import (
    Chunk,
    Columns,
    Device,
    Dtype,
    KeepLabels,
    Limit,
    MarkerSpec,
    MaxTokens,
    Model,
    Out,
    Pickle,
    Problems,
    RawPrompt,
    RemoteCode,
    Retokenize,
    Samples,
    Seed,
    System,
    Temperature,
    Template,
    Thinking,
    TopK,
    TopP,
    Where,
    friendly,
    names,
    pairs,
    say,
)
from geomrl.cli_report import report_app
from geomrl.cli_train import train_app
from geomrl.errors import GeomrlError
from geomrl.runs.layout import ROLLOUTS

if TYPE_CHECKING:
    from geomrl.models.options import ModelOptions
    from geomrl.rollout.generate import RolloutConfig
    from geomrl.rollout.import_config import ImportConfig

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="See and steer what RL from verifiable rewards does to a model's representations.",
)
reasoner_app = typer.Typer(no_args_is_help=True, help="The bundled tiny reasoner.")
app.add_typer(report_app)
app.add_typer(train_app)  # no name: its commands stand beside the others
app.add_typer(eval_app)
app.add_typer(compare_app)
app.add_typer(reasoner_app, name="reasoner")


def main() -> None:
    """Run the command line."""
    app()


@app.command(epilog="Example: geomrl rollout Qwen/Qwen3-1.7B --problems aime24 -n 16 --out RUN")
@friendly
def rollout(
    model: Model,
    out: Out,
    problems: Problems = None,
    import_file: Annotated[
        Path | None, typer.Option("--import", help="Bring rollouts of another tool in instead.")
    ] = None,
    n: Samples = 16,
    seed: Seed = 0,
    limit: Limit = None,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    max_tokens: MaxTokens = 2048,
    chunk: Chunk = 64,
    template: Template = None,
    system: System = None,
    thinking: Thinking = None,
    marker: MarkerSpec = "\\boxed{",
    column: Columns = None,
    where: Where = None,
    keep_labels: KeepLabels = False,
    retokenize: Retokenize = False,
    raw_prompt: RawPrompt = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: RemoteCode = False,
    allow_pickle: Pickle = False,
) -> None:
    """Sample and grade n responses a problem, or import those of another tool."""
    from geomrl.report import print_rollouts
    from geomrl.rollout.steps import import_rollouts, make_rollouts

    options = _options(device, dtype, trust_remote_code, allow_pickle)
    if import_file is not None:
        config = _import_config(
            import_file,
            column,
            where,
            keep_labels,
            retokenize,
            template,
            system,
            thinking,
            raw_prompt,
        )
        run = import_rollouts(
            import_file, model, out, config=config, marker=marker, options=options, say=say
        )
    elif problems is not None:
        run = make_rollouts(
            model, problems, out, limit=limit, columns=pairs(column, "--column"), marker=marker,
            options=options, say=say,
            config=_rollout_config(
                n, seed, chunk, temperature, top_p, top_k, max_tokens, template, system, thinking
            ),
        )  # fmt: skip
    else:
        raise GeomrlError("nothing to do: give --problems NAME_OR_FILE, or --import FILE")
    print_rollouts(run)


@app.command(epilog="Example: geomrl probe Qwen/Qwen3-1.7B --problems math500 -n 16 --out RUN")
@friendly
def probe(
    model: Model,
    out: Out,
    problems: Problems = None,
    rollouts: Annotated[
        Path | None, typer.Option(help="Somebody else's rollouts (.jsonl or .parquet).")
    ] = None,
    n: Samples = 16,
    layers: Annotated[str, typer.Option(help="'all', or 0,12,final.")] = "all",
    anchors: Annotated[
        str, typer.Option(help="'default', or before_marker,marker_end,...")
    ] = "default",
    replace: Annotated[
        bool, typer.Option("--replace", help="Also replace anchor states and score the answer.")
    ] = False,
    replace_anchor: Annotated[str, typer.Option(help="The anchor to replace.")] = "before_marker",
    seed: Seed = 0,
    limit: Limit = None,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    max_tokens: MaxTokens = 2048,
    chunk: Chunk = 64,
    batch_tokens: Annotated[int, typer.Option(help="Padded tokens of a forward.", min=1)] = 16384,
    boot: Annotated[int, typer.Option(help="Bootstrap draws.", min=100)] = 2000,
    permutations: Annotated[int, typer.Option(help="Permutations a test.", min=99)] = 1000,
    template: Template = None,
    system: System = None,
    thinking: Thinking = None,
    marker: MarkerSpec = "\\boxed{",
    column: Columns = None,
    where: Where = None,
    keep_labels: KeepLabels = False,
    retokenize: Retokenize = False,
    raw_prompt: RawPrompt = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: RemoteCode = False,
    allow_pickle: Pickle = False,
) -> None:
    """Read anchor states and compare correct with incorrect rollouts, over layers and positions.

    Makes rollouts first where RUN has none (--problems), or imports them (--rollouts).
    """
    from geomrl.probe.anchors import DEFAULT_ANCHORS
    from geomrl.probe.extraction import ExtractionConfig
    from geomrl.probe.steps import check_readable, probe_states
    from geomrl.probe.steps import replace_anchor as replace_anchor_states
    from geomrl.report import print_headline, print_replacement
    from geomrl.rollout.steps import import_rollouts, make_rollouts

    extraction = ExtractionConfig(
        layers=None if layers == "all" else tuple(names(layers)),
        anchors=DEFAULT_ANCHORS if anchors == "default" else tuple(names(anchors)),
        batch_tokens=batch_tokens,
    )
    options = _options(device, dtype, trust_remote_code, allow_pickle)
    _check_source(problems, rollouts, out)
    importing = None
    if rollouts is not None:
        importing = _import_config(
            rollouts, column, where, keep_labels, retokenize, template, system, thinking, raw_prompt
        )
    loaded = options.load(model)
    check_readable(loaded, extraction)
    if rollouts is not None:
        import_rollouts(rollouts, loaded, out, config=importing, marker=marker, say=say)
    elif problems is not None:
        make_rollouts(
            loaded, problems, out, limit=limit, columns=pairs(column, "--column"), marker=marker,
            say=say,
            config=_rollout_config(
                n, seed, chunk, temperature, top_p, top_k, max_tokens, template, system, thinking
            ),
        )  # fmt: skip
    run = probe_states(
        loaded, out, config=extraction, seed=seed, n_boot=boot, n_perm=permutations,
        options=options, say=say,
    )  # fmt: skip
    print_headline(run)
    lacking = run.summary["shortcomings"]
    if lacking:
        raise GeomrlError(f"{out}: states and tables are written, but {'; '.join(lacking)}")
    if replace:
        table = replace_anchor_states(
            loaded, out, anchor=replace_anchor, layers=extraction.layers, seed=seed, n_boot=boot,
            batch_tokens=batch_tokens,
        )  # fmt: skip
        print_replacement(table)


@app.command(epilog="Example: geomrl figures runs/quickstart, or geomrl figures --all")
@friendly
def figures(
    run: Annotated[Path | None, typer.Argument(help="Run directory.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Regenerate every figure and table, from nothing.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder; RUN/figures, or with --all figures.")
    ] = None,
    layer: Annotated[str, typer.Option(help="Layer of the single-layer pictures.")] = "final",
    anchor: Annotated[
        str, typer.Option(help="Anchor of the single-anchor pictures.")
    ] = "before_marker",
    encoder: Annotated[str | None, typer.Option(help="Where RUN has states of several.")] = None,
    umap: Annotated[bool, typer.Option(help="Draw the UMAP too (slow at first).")] = True,
    seed: Seed = 0,
    analyses: Annotated[Path, typer.Option(help="With --all: folder of the scripts.")] = Path(
        "analyses"
    ),
    runs: Annotated[
        Path, typer.Option(help="With --all: folder of the runs that are made.")
    ] = Path("runs/figures"),
    jobs: Annotated[int, typer.Option(help="With --all: trainings at once.", min=1)] = 1,
) -> None:
    """Draw every picture of a run, training, ablation, evaluation or comparison: PNG, PDF, CSV.

    With --all: make the bundled runs and regenerate every figure and table of analyses/.
    """
    if every == (run is not None):
        raise GeomrlError("name a run directory, or give --all: one of the two")
    if run is None:
        from geomrl.reproduce.everything import reproduce

        written = reproduce(
            out or Path("figures"), analyses=analyses, runs=runs, jobs=jobs, say=say
        )
        say(f"{len(written)} files; begin with {written[-2]}")
        return
    from geomrl.progress import progress_bar
    from geomrl.viz.folders import draw_folder

    with progress_bar("figures", "pictures") as update:
        paths = draw_folder(
            run, out, encoder=encoder, layer=layer, anchor=anchor, umap=umap, seed=seed,
            progress=update,
        )  # fmt: skip
    _say_drawn(paths, out)


@app.command(epilog="Example: geomrl quickstart --out runs/quickstart")
@friendly
def quickstart(
    out: Out = Path("runs/quickstart"),
    limit: Annotated[int, typer.Option(help="Held-out problems.", min=4)] = 200,
    n: Samples = 16,
    seed: Seed = 0,
    umap: Annotated[bool, typer.Option(help="Draw the UMAP too.")] = True,
) -> None:
    """The paper's central analysis on the bundled reasoner: rollouts, states, similarity, pictures."""
    from geomrl.models.options import ModelOptions
    from geomrl.probe.steps import probe_states
    from geomrl.report import print_headline
    from geomrl.rollout.engine import Sampling
    from geomrl.rollout.generate import RolloutConfig
    from geomrl.rollout.steps import make_rollouts

    loaded = ModelOptions(devices="cpu").load("reasoner")
    config = RolloutConfig(n=n, seed=seed, chunk=320, sampling=Sampling(max_tokens=192))
    make_rollouts(loaded, "arithmetic", out, config=config, limit=limit, say=say)
    run = probe_states(loaded, out, seed=seed, say=say)
    _draw(run, None, "final", "before_marker", umap, seed)
    print_headline(run)
    say(
        "The wording of this task was chosen so that it is worth measuring; a cosine near .84 here "
        "reproduces nothing of the paper's."
    )


@app.command(epilog="Example: geomrl doctor")
@friendly
def doctor() -> None:
    """Say what is installed, what will run where, and what is missing."""
    from geomrl.doctor import print_diagnosis

    print_diagnosis()


@reasoner_app.command("train", epilog="Example: geomrl reasoner train --out my-reasoner --seed 0")
@friendly
def reasoner_train(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint.")],
    seed: Seed = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace what is there.")] = False,
) -> None:
    """Train the bundled reasoner from nothing: a few CPU-minutes."""
    from geomrl.models.loading import quiet_transformers
    from geomrl.reasoner.train import ReasonerConfig, train_reasoner
    from geomrl.report import print_reasoner

    quiet_transformers()
    print_reasoner(train_reasoner(ReasonerConfig(seed=seed), out, overwrite=overwrite), out)


def _check_source(problems: str | None, rollouts: Path | None, out: Path) -> None:
    """Say what is missing before a model is loaded."""
    if problems is not None and rollouts is not None:
        raise GeomrlError(
            "--problems and --rollouts exclude each other: rollouts name their problems"
        )
    if rollouts is not None and not rollouts.exists():
        raise GeomrlError(f"{rollouts}: no such file; check the path")
    if problems is None and rollouts is None and not (out / ROLLOUTS).exists():
        raise GeomrlError(
            f"{out}: holds no rollouts; give --problems NAME_OR_FILE or --rollouts FILE"
        )


def _draw(run: Any, out: Path | None, layer: str, anchor: str, umap: bool, seed: int) -> None:
    from geomrl.progress import progress_bar
    from geomrl.viz.figures import draw_figures

    with progress_bar("figures", "pictures") as update:
        paths = draw_figures(
            run, out, layer=layer, anchor=anchor, umap=umap, seed=seed, progress=update
        )
    _say_drawn(paths, out)


def _say_drawn(paths: list[Path], out: Path | None) -> None:
    pictures = [path for path in paths if path.suffix == ".png"]
    say(
        f"{len(pictures)} pictures (PNG, PDF and CSV each) in {pictures[0].parent if pictures else out}"
    )


def _options(device: str, dtype: str, remote_code: bool, pickle: bool) -> ModelOptions:
    from geomrl.models.options import ModelOptions

    return ModelOptions(device, dtype, remote_code, pickle)


def _rollout_config(
    n: int,
    seed: int,
    chunk: int,
    temperature: float,
    top_p: float,
    top_k: int,
    max_tokens: int,
    template: str | None,
    system: str | None,
    thinking: bool | None,
) -> RolloutConfig:
    from geomrl.rollout.engine import Sampling
    from geomrl.rollout.generate import RolloutConfig

    sampling = Sampling(temperature, top_p, top_k, max_tokens)
    return RolloutConfig(n, seed, chunk, sampling, template, system, thinking)


def _import_config(
    file: Path,
    column: list[str] | None,
    where: list[str] | None,
    keep_labels: bool,
    retokenize: bool,
    template: str | None,
    system: str | None,
    thinking: bool | None,
    raw_prompt: bool,
) -> ImportConfig:
    from geomrl.rollout.import_config import ImportConfig
    from geomrl.rollout.importing import has_prompts

    config = ImportConfig(
        pairs(column, "--column"), pairs(where, "--where"), keep_labels, retokenize,
        template or "boxed", system, thinking, raw_prompt,
    )  # fmt: skip
    if template is not None and has_prompts(file, config):
        raise GeomrlError(
            f"{file}: --template would change nothing, since the file holds prompts; leave it out, or "
            "leave the prompts aside (--column prompt= --column prompt_ids=)"
        )
    return config


if __name__ == "__main__":
    main()
