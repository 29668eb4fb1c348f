"""What the README and docs/ show runs as it stands, and names only what there is."""

import re
import runpy
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
from typer.main import get_command

from geomrl.ablate.grid import load_grid
from geomrl.cli.app import app
from geomrl.train.config import load_config

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def text(page):
    return re.sub(r"<!--.*?-->", "", page.read_text(), flags=re.DOTALL)


def run_example(page, word, folder):
    """Run the page's one Python example that contains a word; return what it defines."""
    found = re.findall(r"```python\n(.*?)```", text(page), flags=re.DOTALL)
    [example] = [part for part in found if word in part]
    path = folder / "example.py"
    path.write_text(example)  # a file: nnsight reads its callers' source
    return runpy.run_path(str(path))


@pytest.mark.slow
def test_python_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_example(README, "make_rollouts", tmp_path)
    assert "before_marker" in capsys.readouterr().out
    assert len(list((tmp_path / "runs/readme/figures").glob("*.png"))) >= 6
    assert (tmp_path / "runs/readme/replacement.csv").exists()
    (tmp_path / "runs/quickstart").symlink_to("readme")
    run_example(ROOT / "docs/report.md", "write_report", tmp_path)
    assert (tmp_path / "report.html").exists()


def command_lines(page):
    """Commands of geomrl that a page shows, through a launcher or not, as lists of arguments."""
    plain = re.sub(r"^```\w+\n.*?^```$", "", text(page), flags=re.DOTALL | re.MULTILINE)
    blocks = re.findall(r"^```\n(.*?)^```$", plain, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"^    (geomrl .*)$", plain, flags=re.MULTILINE)  # or indented by four
    shown = [re.search(r"\bgeomrl(?:\.cli)? +(.*)", line) for line in lines]
    return [shlex.split(found[1], comments=True) for found in shown if found]


def resolve(arguments):
    """Return a command's full name, itself, and the arguments behind its name."""
    command, name = get_command(app), []
    while hasattr(command, "commands"):
        assert arguments, f"geomrl {' '.join(name)}: no command"
        name.append(arguments[0])
        assert arguments[0] in command.commands, f"geomrl {' '.join(name)}: no such command"
        command, arguments = command.commands[arguments[0]], arguments[1:]
    return " ".join(name), command, arguments


@pytest.mark.parametrize("line", command_lines(README), ids=" ".join)
def test_commands_exist_with_their_options(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    check_command(line)


def check_command(line):
    """Check a command's name, its options, and the recipes of the repository that it names."""
    name, command, arguments = resolve(line)
    known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
    assert {a for a in arguments if re.match(r"--?[a-z]", a)} <= known
    pairs = list(pairwise(arguments))
    if name in ("train", "ablate") and "".join(arguments[:1]).startswith("configs/"):
        load_config(arguments[0], [value for option, value in pairs if option == "--set"])
    for option, value in pairs:
        if option == "--grid" and value.startswith("configs/"):
            load_grid(value)


def test_the_readme_is_short():
    assert len(README.read_text().split()) <= 1800


def test_headline_figures_are_those_of_the_pages_behind_them():
    cells = re.findall(r"-?\.\d{3} \(-?\.\d{3}, -?\.\d{3}\)", text(README))
    assert len(cells) == 12
    assert {cell for cell in cells if cell not in text(ROOT / "docs/reasoner.md")} == set()
    gain = re.search(r"-\.\d{3} \(95 % -\.\d{3} to \.\d{3}", text(README))[0]
    assert gain in text(ROOT / "figures/pass_at_1/README.md")


def test_every_command_is_shown():
    top = get_command(app).commands
    every = {
        f"{name} {sub}" if sub else name
        for name, command in top.items()
        for sub in getattr(command, "commands", [""])
    }
    assert every - {resolve(line)[0] for line in command_lines(README)} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_point_at_files_and_headings(page):
    for target in re.findall(r"\]\(([^):]+)\)", text(page)):
        path, _, heading = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), target
        if heading:
            assert heading in {slug(h) for h in re.findall(r"^#+ (.*)", text(there), re.MULTILINE)}


def slug(heading):
    """A heading as GitHub links to it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
