"""Build the documentation as a site: `python docs/make_site.py`, or `make docs`.

The pages link to each other and to the code as files of the repository do. The site therefore is laid
out as the repository is: README.md is its first page, and every file that a page links to lies where
the link says. A link to a file that is not there, or to a heading that a page does not have, fails.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
FIRST = ("README.md", "CHANGELOG.md")
LINK = re.compile(r"\]\(([^)\s:#]+)(?:#[^)\s]*)?\)")

# A heading that a page has twice: GitHub counts it with "-1", Markdown's table of contents with "_1".
REPEATED = re.compile(r"\(#(\w+)-(\d+)\)")


def main() -> None:
    """Write the site to build/site.

    Raises:
        SystemExit: a link leads nowhere, or mkdocs warns of something; it has said what.
    """
    pages = BUILD / "pages"
    shutil.rmtree(pages, ignore_errors=True)
    for path in sorted(linked(ROOT, FIRST)):
        target = pages / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, target)
        if path.suffix == ".md":
            target.write_text(REPEATED.sub(r"(#\1_\2)", target.read_text()))
    # Its successor is not made yet; the notice is not a warning of this site.
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    command += ["--config-file", str(ROOT / "mkdocs.yml")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    print(BUILD / "site" / "index.html")


def linked(root: Path, first: Iterable[str]) -> set[Path]:
    """All files that the first pages lead to, themselves included, relative to the repository.

    Raises:
        SystemExit: a page links to what is not in the repository.
    """
    found, waiting = set(), [Path(page) for page in first]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        if path.suffix == ".md":
            waiting += links(root, path)
    return found


def links(root: Path, page: Path) -> Iterator[Path]:
    """The files that a page links to; a folder's is its README.md."""
    for target in LINK.findall(prose((root / page).read_text())):
        there = (root / page.parent / target).resolve()
        if not there.exists():
            sys.exit(f"{page} links to {target}, which is not there")
        yield (there / "README.md" if there.is_dir() else there).relative_to(root)


def prose(text: str) -> str:
    """A page without its blocks of code, whose brackets are not links."""
    return re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL)


if __name__ == "__main__":
    main()
