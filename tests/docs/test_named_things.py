"""Every module, name and file that the documentation and the source's prose mention exists."""

import io
import re
import tokenize

import griffe
import pytest
from contract import LEVEL
from test_readme import PAGES, ROOT, check_command, text

PROSE = [*PAGES, ROOT / "benchmarks/README.md"]
SOURCES = [
    path
    for folder in ("geomrl", "analyses", "benchmarks", "docs", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
DOTTED = re.compile(r"\bgeomrl((?:\.[A-Za-z_]\w*)+)")
FILE = re.compile(r"(?<![\w./-])((?:[\w-]+/)+[\w-]+\.(?:py|yaml|cff))\b")
OF_THE_READERS = re.compile(r"mine/|analyses/length\.py|.*[A-Z]{3}")  # examples, FOLDER/THING.py


@pytest.fixture(scope="module")
def package():
    return griffe.load("geomrl", search_paths=[ROOT], allow_inspection=False)


def prose(path):
    """A page's text, or a source's comments and strings that are sentences: docstrings, messages."""
    if path.suffix == ".md":
        return text(path)
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    kept = (tokenize.COMMENT, tokenize.STRING)
    return "\n".join(token.string for token in tokens if token.type in kept and " " in token.string)


def exists(package, dotted):
    """Whether a dotted name leads to a module, or to a name in one."""
    try:
        package[dotted]
    except KeyError:
        return False
    return True


def absent(path, package):
    """What a text names and is not there."""
    said = prose(path)
    dotted = {found.removeprefix(".") for found in DOTTED.findall(said)}
    files = {file for file in FILE.findall(said) if not OF_THE_READERS.match(file)}
    homes = (ROOT, ROOT / "geomrl", ROOT / "tests", path.parent)
    return {name for name in dotted if not exists(package, name)} | {
        file for file in files if not any((home / file).exists() for home in homes)
    }


@pytest.mark.parametrize("texts", [PROSE, SOURCES], ids=["pages", "sources"])
def test_what_is_named_exists(texts, package):
    found = {str(path.relative_to(ROOT)): absent(path, package) for path in texts}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_within_sentences_exist(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for line in re.findall(r"`geomrl ([a-z][^`]*)`", text(page)):
        check_command(line.split())


def test_the_tree_of_contributing_is_the_contract():
    tree = text(ROOT / "CONTRIBUTING.md").partition("\ngeomrl/\n")[2].partition("```")[0]
    rows = [re.match(r" ?(\d+)  (\w+)(/?) +\S", line) for line in tree.splitlines()]
    assert {row[2]: int(row[1]) - 1 for row in rows} == LEVEL
    for row in rows:
        assert (ROOT / "geomrl" / (row[2] if row[3] else f"{row[2]}.py")).exists()
    assert [int(row[1]) for row in rows] == sorted((int(row[1]) for row in rows), reverse=True)


def test_the_index_has_every_page():
    index = text(ROOT / "docs/index.md")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert {page for page in pages if f"({page}" not in index} == set()
