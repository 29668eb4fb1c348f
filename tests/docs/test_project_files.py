"""Files that other tools read: the citation and the hooks of pre-commit."""

import tomllib

import yaml
from test_readme import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert (citation["title"], citation["version"]) == (PROJECT["name"], PROJECT["version"])
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]
    assert {"message", "type"} <= citation.keys()


def test_the_hooks_are_what_make_check_runs():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = {hook["entry"] for repo in config["repos"] for hook in repo["hooks"]}
    recipe = (ROOT / "Makefile").read_text().partition("\ncheck: install\n")[2].partition("\n\n")[0]
    lines = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()]
    assert hooks == {line.removesuffix(" .") for line in lines}  # pre-commit names the files
