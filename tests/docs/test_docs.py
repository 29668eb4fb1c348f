"""The pages of docs/: their examples run, their commands, links and names lead somewhere."""

import json
import os
import re
import runpy
import sys
from functools import cache

import griffe
import pytest
from processes import run_process
from test_readme import PAGES, README, ROOT, check_command, command_lines, slug, text

import geomrl
import geomrl.reproduce
import geomrl.train

DOCS = ROOT / "docs"
API = DOCS / "api"
TRAINING = DOCS / "training.md"
TUTORIALS = sorted(DOCS.glob("tutorial_*.md"))
TRAINING_TUTORIALS = [page for page in TUTORIALS if "geomrl.train import" in text(page)]
ELSEWHERE = {"importance/mean", "align/drift"}  # with vLLM; with a table from an earlier pass
MAKE = DOCS / "make_api.py"
CODE = r"^```python\n(.*?)^```$"
SHOWN = r"^```$\n\n((?:    .*\n|\n)+)"  # indented by four, behind a block: what it prints


def name(page):
    return page.name


@pytest.fixture(scope="module")
def pages():
    """The API pages as the docstrings make them now."""
    return runpy.run_path(str(MAKE))["make_pages"]()


@pytest.fixture(scope="module")
def package():
    return griffe.load("geomrl", search_paths=[ROOT], allow_inspection=False)


@pytest.fixture(scope="module")
def typed(tmp_path_factory):
    """Return a page's folder and what its Python printed, run once in a process as a reader's."""

    @cache
    def run(page):
        folder = checkout(tmp_path_factory.mktemp("page"))
        script = written(page, folder).name
        # A process a page: a process trains once. Run so, a script's main() is not.
        done = run_process(
            [sys.executable, "-c", f"import runpy; runpy.run_path('{script}')"],
            cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
        return folder, done.stdout

    return run


def checkout(folder):
    """What a checkout has."""
    for part in ("configs", "analyses"):
        (folder / part).symlink_to(ROOT / part)
    return folder


def written(page, folder):
    """A page's Python as a file: nnsight reads its callers' source."""
    blocks = re.findall(CODE, text(page), flags=re.DOTALL | re.MULTILINE)
    path = folder / f"{page.stem}.py"
    path.write_text("\n".join(blocks))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("page", TRAINING_TUTORIALS, ids=name)
def test_python_of_a_tutorial_that_trains_prints_what_it_shows(page, typed):
    assert_shown(page, typed(page)[1])


@pytest.mark.slow
def test_python_of_the_other_tutorials_prints_what_they_show(tmp_path, monkeypatch, capsys):
    """One page after another, in this process; both read the same run."""
    monkeypatch.chdir(checkout(tmp_path))
    for folder in ("runs/mine", "runs/first"):
        (tmp_path / folder).parent.mkdir(exist_ok=True)
        (tmp_path / folder).symlink_to(tmp_path / "run")
    (tmp_path / "run").mkdir()
    for page in TUTORIALS:
        if page not in TRAINING_TUTORIALS:
            runpy.run_path(str(written(page, tmp_path)))
            assert_shown(page, capsys.readouterr().out)


def assert_shown(page, printed):
    """A page shows words that its Python printed."""
    shown = re.findall(SHOWN, text(page), flags=re.MULTILINE)
    assert len(shown) >= 2
    # Words only: another processor may sample another token, and the numbers follow it.
    missing = {w for part in shown for w in words(part)} - words(printed)
    assert missing == set()


def words(printed):
    return set(re.findall(r"[A-Za-z_]{3,}", printed))


@pytest.mark.slow
def test_every_metric_is_described_and_every_described_metric_is_there(typed):
    folder, _ = typed(DOCS / "tutorial_train.md")
    lines = (folder / "runs/smoke/metrics.jsonl").read_text().splitlines()
    logged = {general(key) for line in lines for key in json.loads(line)}
    described = described_metrics()
    assert logged - described == set()
    assert described - logged == ELSEWHERE


def general(key):
    """A key of the log without its interval's end, and with the names that depend on the run."""
    key = re.sub(r"pass@\d+", "pass@K", re.sub(r"_(low|high)$", "", key))
    parts = key.split("/")
    if parts[0] == "eval" and len(parts) == 4:
        key = f"eval/ANCHOR/LAYER/{parts[3].removesuffix('_centred')}"
    return key


def described_metrics():
    """The first column of the table under "metrics.jsonl"."""
    _, _, section = text(TRAINING).partition("\n## metrics.jsonl\n")
    rows = re.findall(r"^\| (`.*?) \| ", section.partition("\n## ")[0], flags=re.MULTILINE)
    cells = [re.findall(r"`([^`]+)`", row) for row in rows]
    # "`eval/ANCHOR/LAYER/CC` and `II`": the others of a row that begins so are cells there too.
    place = "eval/ANCHOR/LAYER/"
    return {
        name if name.startswith(place) or not row[0].startswith(place) else place + name
        for row in cells
        for name in row
    }


@pytest.mark.parametrize("page", [page for page in PAGES if page != README], ids=name)
def test_commands_of_a_page_exist_with_their_options(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for line in command_lines(page):
        check_command(line)


@pytest.mark.parametrize("page", TUTORIALS, ids=name)
def test_a_tutorial_shows_commands(page):
    assert len(command_lines(page)) >= 3


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_names_in_the_text_exist_and_are_described(page, package):
    for path in re.findall(r"`geomrl\.([\w.]+)(?:\(.*?\))?`", text(page)):
        thing = package[path]
        assert thing.docstring or thing.is_attribute, path


def test_the_api_pages_are_those_of_the_docstrings(pages):
    kept = {path.name: path.read_text() for path in API.glob("*.md")}
    cure = "docs/api/ is out of date: run `python docs/make_api.py` and commit it"
    stale = {page for page in pages.keys() | kept.keys() if pages.get(page) != kept.get(page)}
    assert stale == set(), cure


@pytest.mark.parametrize(
    ("page", "module"),
    [("geomrl.md", geomrl), ("train.md", geomrl.train), ("reproduce.md", geomrl.reproduce)],
)
def test_every_exported_name_has_its_place(pages, page, module):
    described = set(re.findall(r"^### (\w+)$", pages[page], flags=re.MULTILINE))
    assert set(module.__all__) - described == set()


def test_every_module_has_its_place(package):
    made = runpy.run_path(str(MAKE))
    every = made["modules_of"](package)
    assert {name for name in every if name.startswith("geometry.")} <= {
        name for names in made["shown_modules"](package).values() for name in names
    }
    internal = " ".join(made["INTERNAL"].values()).split()
    named = {name for name in internal if not name.endswith(".*")}
    assert named - set(every) == set()
    package = griffe.Module("geomrl", filepath=ROOT / "geomrl/__init__.py")
    new = griffe.Module("fresh", filepath=ROOT / "geomrl/fresh.py")
    package.set_member("fresh", new)
    with pytest.raises(ValueError, match=r"PAGES.*INTERNAL.*'fresh'"):
        made["shown_modules"](package)


def test_links_of_the_api_pages_resolve(pages):
    known = {page: headings(body) for page, body in pages.items()}
    for page, body in pages.items():
        for target in set(re.findall(r"\]\(([^):]+)\)", body)):
            path, _, heading = target.partition("#")
            assert (API / path).exists(), (page, target)
            assert not heading or heading in known[path or page], (page, target)


def headings(body):
    """Headings as GitHub links to them: the second of one name gets "-1"."""
    found = []
    prose = re.sub(r"^```.*?^```$", "", body, flags=re.DOTALL | re.MULTILINE)
    for heading in re.findall(r"^#+ (.*)", prose, flags=re.MULTILINE):
        word = slug(heading)
        times = sum(re.sub(r"-\d+$", "", other) == word for other in found)
        found.append(f"{word}-{times}" if times else word)
    return set(found)
