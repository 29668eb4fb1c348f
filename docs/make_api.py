"""Write docs/api/: one page of markdown a part of the package, from signatures and docstrings.

    python docs/make_api.py

The package is read, not imported (griffe), so this takes a second and needs no torch. Links go to
files and not to lines, so that a page changes only where a signature or a docstring does.
"""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import griffe

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "api"
_WIDE = 88  # a longer signature gets a line a parameter
_OPTIONS = {  # "Returns:" is one text: its colons are punctuation
    "returns_named_value": False,
    "returns_multiple_items": False,
    "warn_unknown_params": False,
    "warnings": False,
}


@dataclass(frozen=True)
class Page:
    """One page: the public names of some modules.

    `modules` are names below `geomrl`, with spaces between, in the order of the page, or `geomrl` itself;
    of a package its page shows what it exports. `FOLDER.*` are all modules of a folder that are neither
    named before nor `INTERNAL`, so that a new module appears by itself.
    """

    name: str
    title: str
    about: str
    modules: str


PAGES = (
    Page(
        "geomrl", "geomrl",
        "What `import geomrl` offers: make and probe rollouts, evaluate, compare, draw, report.",
        "geomrl",
    ),
    Page(
        "geometry", "geomrl.geometry",
        "Arrays of states and labels in, numbers out: cells, spaces, tests, spectra, likeness of encoders.",
        "geometry.groups geometry.spaces geometry.cells geometry.similarity geometry.label_tests "
        "geometry.*",
    ),
    Page(
        "stats", "geomrl.stats",
        "Intervals clustered by problem, tests, corrections, power. NumPy and SciPy only.",
        "stats.intervals stats.passk stats.majority stats.paired stats.*",
    ),
    Page(
        "probe", "geomrl.probe",
        "Anchors, extraction of states, the logit lens, interventions.",
        "probe.anchors probe.extraction probe.extractor probe.steps probe.*",
    ),
    Page(
        "rollouts", "Problems, verdicts, rollouts",
        "What is asked, how answers are graded, how rollouts are sampled and imported.",
        "problems.problem problems.load problems.* verify.marker verify.verifier verify.* "
        "rollout.engine rollout.generate rollout.grading rollout.*",
    ),
    Page(
        "runs", "geomrl.runs",
        "A run directory: file names, the manifest, rollouts, states, what is redone after a kill.",
        "runs.run runs.layout runs.manifest runs.rollouts runs.states runs.*",
    ),
    Page(
        "models", "geomrl.models",
        "Names of models, loading, layers, token bytes, what identifies a model.",
        "models.names models.options models.loading models.decoder models.*",
    ),
    Page(
        "train", "geomrl.train",
        "DAPO, the alignment loss, its gradient cache and gauges, the training loop.",
        "train train.alignment train.gauges train.gradient_cache train.dapo train.trainer train.*",
    ),
    Page(
        "configuration", "Configuration of a training",
        "Every key of a YAML recipe of `geomrl train`, by section.",
        "train.config train.sections",
    ),
    Page(
        "evaluate", "geomrl.evaluate",
        "Accuracies of models and their differences, paired by problem.",
        "evaluate.evaluation evaluate.accuracy evaluate.differences evaluate.*",
    ),
    Page(
        "compare", "geomrl.compare",
        "Base against RL: what changed in the policy, what in the encoder, measures, the verdict.",
        "compare.run compare.verdict compare.policy_change compare.encoder_change "
        "compare.measures.measure compare.*",
    ),
    Page(
        "integrations", "geomrl.integrations",
        "The alignment in trainers that are not geomrl's: framework-neutral, and TRL's.",
        "integrations.alignment integrations.trl integrations.*",
    ),
    Page(
        "ablate", "geomrl.ablate",
        "Many trainings: variants by seeds, and their differences to weight 0.",
        "ablate.grid ablate.run ablate.*",
    ),
    Page(
        "figures", "geomrl.viz, geomrl.report",
        "Pictures with the data that they show; the HTML page.",
        "viz.picture viz.scene viz.probed viz.* report.page",
    ),
    Page(
        "reproduce", "geomrl.reproduce",
        "Analyses: a question, the runs that it needs, and the page that answers it.",
        "reproduce reproduce.analysis reproduce.finding reproduce.runs reproduce.everything reproduce.*",
    ),
    Page(
        "foundations", "Foundations", "Errors, seeds, files, progress.",
        "errors seeds files progress",
    ),
)  # fmt: skip

INTERNAL = {
    "commands, see `geomrl --help`": "cli.*",
    "the rules by which the verifier compares answers":
        "verify.blank verify.conditions verify.families verify.grading verify.latex verify.normal "
        "verify.numbers verify.quantities verify.symbolic verify.unicode verify.units verify.words "
        "verify.worker_main verify.workers",
    "what a training step is made of":
        "train.adapters train.alignment_term train.batch train.checkpoint train.clock train.display "
        "train.fingerprints train.minibatch train.outcome train.passes train.planning train.policy "
        "train.positions train.preflight train.sampling train.setup train.shared_folder train.start "
        "train.update train.update_phase train.values train.weights",
    "processes of an ablation": "ablate.jobs ablate.worker",
    "parts of the report's page": "report.*",
    "how the bundled reasoner was made": "reasoner.*",
}  # fmt: skip
"""Modules that no page shows, by the reason: names, or `FOLDER.*` for what no page names."""


def make_pages() -> dict[str, str]:
    """Return every page's text by its file's name, without writing anything."""
    logging.getLogger("griffe").setLevel(logging.CRITICAL)
    package = griffe.load(
        "geomrl", search_paths=[ROOT], allow_inspection=False, docstring_parser="google",
        docstring_options=_OPTIONS,
    )  # fmt: skip
    shown = shown_modules(package)
    pages = {f"{page.name}.md": _page(page, package, shown[page.name]) for page in PAGES}
    lines = [f"- [{page.title}]({page.name}.md): {page.about}" for page in PAGES]
    head = "# API reference\n\nMade from the docstrings by `python docs/make_api.py`.\n\n"
    pages["README.md"] = head + "\n".join(lines) + "\n"
    return pages


def shown_modules(package: griffe.Module) -> dict[str, list[str]]:
    """Return the names of the modules on each page, in order; every module has its place.

    Raises:
        ValueError: a module is on no page and not `INTERNAL`.
    """
    internal = " ".join(INTERNAL.values()).split()
    named = {name for page in PAGES for name in page.modules.split()} | set(internal)
    rest = [name for name in modules_of(package) if name not in named]
    shown = {page.name: _resolved(page.modules.split(), rest) for page in PAGES}
    placed = {name for names in (*shown.values(), _resolved(internal, rest)) for name in names}
    if forgotten := sorted(set(rest) - placed):
        raise ValueError(f"give these a page in PAGES, or name them in INTERNAL: {forgotten}")
    return shown


def _resolved(names: Iterable[str], rest: list[str]) -> list[str]:
    """Return names, and in place of `FOLDER.*` the modules of that folder among the rest."""
    found = []
    for name in names:
        folder = name.removesuffix("*")
        found += [name] if folder == name else [other for other in rest if other.startswith(folder)]
    return found


def modules_of(package: griffe.Module) -> list[str]:
    """Return the modules of a package and of its folders by name; packages themselves are none."""
    found = []
    for module in package.members.values():
        if not module.is_alias and module.is_module:
            name = module.path.removeprefix("geomrl.")
            found += modules_of(module) if module.is_init_module else [name]
    return sorted(found)


def write_pages() -> list[Path]:
    """Write `docs/api/`, remove pages that are no longer made, and return the files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    pages = make_pages()
    for path in FOLDER.glob("*.md"):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        (FOLDER / name).write_text(text)
    return [FOLDER / name for name in pages]


def _page(page: Page, package: griffe.Module, names: list[str]) -> str:
    parts = [f"# {page.title}", page.about, "[All pages](README.md)"]
    modules = [package if name == "geomrl" else package[name] for name in names]
    shown = {module.path: _members(module) for module in modules}
    described = {  # a name that a package exports is described at its home, if that is here too
        path: [(label, member) for label, member in members
               if member.module.path == path
               or (member.name, member) not in shown.get(member.module.path, [])]
        for path, members in shown.items()
    }  # fmt: skip
    slugs = _slugs(member for members in described.values() for _, member in members)
    contents, bodies = [], []
    for module in modules:
        links = ", ".join(
            f"[`{label}`](#{slugs[member.path]})" for label, member in shown[module.path]
        )
        contents.append(f"- `{module.path}`: {links or 'what it is, below'}")
        bodies += [f"## {module.path}", f"Source: {_source(module)}"]
        if module.docstring:
            bodies += _sections(module.docstring)
        for label, member in described[module.path]:
            bodies += _member(label, member)
    parts += ["\n".join(contents), *bodies]
    return "\n\n".join(part.rstrip() for part in parts if part.strip()) + "\n"


def _slugs(members: Iterable[griffe.Object]) -> dict[str, str]:
    """Return the links' targets as GitHub numbers them: `Drift` and `drift` are one word to it."""
    seen: dict[str, int] = {}
    found = {}
    for member in members:
        word = member.name.lower()
        found[member.path] = f"{word}-{seen[word]}" if word in seen else word
        seen[word] = seen.get(word, 0) + 1
    return found


def _members(module: griffe.Module) -> list[tuple[str, griffe.Object]]:
    """Return what a module shows: what it exports, or else its own public names, as written."""
    if module.is_init_module and module.exports:
        homes = {name: module.members[name] for name in map(str, module.exports)}
        return [(name, alias.final_target if alias.is_alias else alias)
                for name, alias in sorted(homes.items(), key=lambda item: item[0].lower())]  # fmt: skip
    own = [
        (name, member)
        for name, member in module.members.items()
        if not name.startswith("_") and not member.is_alias and not member.is_module
    ]
    return [(name, member) for name, member in own if member.docstring or not member.is_attribute]


def _member(label: str, member: griffe.Object) -> Iterator[str]:
    """Yield a function's, class's or constant's heading, signature and docstring."""
    yield f"### {label}"
    yield f"`{member.path}`, {_source(member)}"
    if member.is_attribute:
        yield _code(f"{member.name} = {member.value}")
    elif member.is_function:
        yield _code(_signature(member))
    else:
        bases = ", ".join(str(base) for base in member.bases)
        decorated = "@dataclass(frozen=True)\n" if "dataclass-frozen" in member.labels else ""
        yield _code(decorated + f"class {_class_signature(member, bases)}")
    if member.docstring:
        yield from _sections(member.docstring)
    if member.is_class:
        yield from _settings(member)
        for name, method in member.members.items():
            if not name.startswith("_") and method.docstring and not method.is_alias:
                yield from _method(name, method)


def _method(name: str, method: griffe.Object) -> Iterator[str]:
    if method.is_function:
        marks = {"classmethod", "staticmethod"} & method.labels
        yield f"#### {method.parent.name}.{name}"
        yield _code("".join(f"@{mark}\n" for mark in sorted(marks)) + _signature(method))
    elif "property" in method.labels:
        kind = f": {method.annotation}" if method.annotation else ""
        yield f"#### {method.parent.name}.{name}"
        yield _code(f"{name}{kind}  # property")
    else:
        return
    yield from _sections(method.docstring)


def _settings(member: griffe.Class) -> Iterator[str]:
    """Yield a table of a pydantic model's fields: what stands in `Field(description=...)`."""
    fields = {
        name: field
        for name, field in member.members.items()
        if field.is_attribute and field.annotation and "property" not in field.labels
    }
    if not any(str(field.value).startswith("Field(") for field in fields.values()):
        return
    rows = []
    for name, field in fields.items():
        given, default, told = {}, field.value or "required", "a section"
        if str(field.value).startswith("Field("):
            given = {a.name: a.value for a in field.value.arguments if hasattr(a, "name")}
            default = given.get("default", "required")
        if "default_factory" in given:
            default = f"{given['default_factory']}()"
        if "description" in given:
            told = ast.literal_eval(f"({given['description']})")
        rows.append(
            f"| `{name}` | `{_cell(field.annotation)}` | `{_cell(default)}` | {_cell(told)} |"
        )
    yield "\n".join(["| key | values | default | |", "|---|---|---|---|", *rows])


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|")


def _signature(function: griffe.Function) -> str:
    return _broken(f"def {function.signature()}")


def _class_signature(member: griffe.Class, bases: str) -> str:
    plain = [p for p in member.parameters if p.name != "self"]
    if not plain:
        return f"{member.name}({bases})" if bases else member.name
    shown = [
        f"{p.name}: {p.annotation}" + (f" = {p.default}" if p.default is not None else "")
        for p in plain
    ]
    return _broken(f"{member.name}({', '.join(shown)})")


def _broken(signature: str) -> str:
    """Return a signature with a line a parameter where it is too wide for one."""
    if len(signature) <= _WIDE:
        return signature
    start = signature.index("(")
    parameters, rest, depth, last, quoted = [], "", 0, start + 1, False
    for at in range(start, len(signature)):
        letter = signature[at]
        quoted ^= letter in "'\""
        if quoted:
            continue
        depth += (letter in "([{") - (letter in ")]}")
        if (letter == "," and depth == 1) or depth == 0:
            parameters.append(signature[last:at].strip())
            last = at + 1
        if depth == 0:
            rest = signature[at:]
            break
    return signature[: start + 1] + "".join(f"\n    {p}," for p in parameters if p) + "\n" + rest


def _sections(docstring: griffe.Docstring) -> Iterator[str]:
    """Yield a docstring's parts as markdown."""
    for section in docstring.parsed:
        kind = section.kind.value
        if kind == "text":
            yield _prose(section.value)
        elif kind in ("parameters", "attributes", "raises", "other parameters"):
            lines = [f"- {_item(kind, item)}" for item in section.value]
            yield f"**{_TITLES[kind]}**\n\n" + "\n".join(lines)
        elif kind in ("returns", "yields"):
            yield f"**{kind.capitalize()}:** " + _returned(section.value[0], docstring)
        elif kind == "examples":
            yield "\n\n".join(_code(text) if form.value == "examples" else _prose(text)
                              for form, text in section.value)  # fmt: skip
        else:
            raise ValueError(f"{docstring.parent.path}: a section '{kind}' has no form yet")


_TITLES = {
    "parameters": "Args",
    "other parameters": "Args",
    "attributes": "Attributes",
    "raises": "Raises",
}


def _item(kind: str, item: griffe.DocstringNamedElement) -> str:
    told = _flat(item.description)
    if kind == "raises":
        return f"`{item.annotation}`: {told}"
    # "x, y: both alike" is read as a name with a type: put it together again.
    others = f" {item.annotation}" if item.name.endswith(",") else ""
    return f"`{item.name}{others}`: {told}"


def _returned(item: griffe.DocstringReturn, docstring: griffe.Docstring) -> str:
    """Return what a function returns: one text, or a list where several things have names."""
    # Words before a first colon are taken for a type: they are part of the sentence.
    typed = str(item.annotation) not in ("None", str(docstring.parent.annotation))
    text = f"{item.annotation}: {item.description}" if typed else item.description
    named = re.split(r"\n(?=\w+: )", text)
    if len(named) == 1:
        return _prose(text)
    parts = [part.split(": ", 1) for part in named]
    return "\n\n" + "\n".join(f"- `{name}`: {_flat(told)}" for name, told in parts)


def _flat(text: str) -> str:
    """Return a description on one line, so that it stays in its list."""
    return _tame(" ".join(text.split()))


def _prose(text: str) -> str:
    """Return text with its examples fenced, and nothing that a page would take for a tag."""
    blocks = []
    for block in re.split(r"\n{2,}", text.strip("\n")):
        if block.lstrip().startswith(">>>"):
            blocks.append(_code(block))
        elif block.startswith("    "):
            blocks.append(block)
        else:
            blocks.append(_tame(block))
    return "\n\n".join(blocks)


def _tame(text: str) -> str:
    """Escape what markdown would take for a tag, or for the start of emphasis between spaces."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if i % 2 else part.replace("<", "&lt;") for i, part in enumerate(parts))


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def _source(thing: griffe.Object) -> str:
    path = Path(thing.filepath).relative_to(ROOT)
    return f"[{path.as_posix()}](../../{path.as_posix()})"


if __name__ == "__main__":
    for written in write_pages():
        print(written.relative_to(ROOT))
