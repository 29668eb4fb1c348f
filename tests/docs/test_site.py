"""The documentation as a site: every link leads somewhere, and mkdocs has nothing to warn of."""

import importlib.util
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "docs/make_site.py"


@pytest.fixture(scope="module")
def site():
    return runpy.run_path(str(SCRIPT))


def test_all_pages_are_reached_from_the_first(site):
    found = site["linked"](ROOT, site["FIRST"])
    assert {path.relative_to(ROOT) for path in (ROOT / "docs").rglob("*.md")} - found == set()
    assert Path("docs/images/cosine_by_position.png") in found


def test_a_link_that_leads_nowhere_is_named(site, tmp_path):
    (tmp_path / "README.md").write_text(
        "[a](b.md#c)\n```\n[x](code)\n```\n[web](https://d.org/e)\n"
    )
    (tmp_path / "b.md").write_text("[there and back](README.md)")
    assert site["linked"](tmp_path, ["README.md"]) == {Path("README.md"), Path("b.md")}
    (tmp_path / "b.md").write_text("[gone](c/d.md)")
    with pytest.raises(SystemExit, match=r"b\.md links to c/d\.md, which is not there"):
        site["linked"](tmp_path, ["README.md"])


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed: `make docs`"
)
def test_the_site_is_built_without_a_warning():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
