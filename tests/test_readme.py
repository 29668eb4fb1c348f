"""The README's Python example runs as it stands."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.slow
def test_python_example_runs(tmp_path, monkeypatch, capsys):
    [example] = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile_example(example), {})
    printed = capsys.readouterr().out
    assert "before_marker" in printed
    assert len(list((tmp_path / "runs/readme/figures").glob("*.png"))) >= 6
    assert (tmp_path / "runs/readme/replacement.csv").exists()


def compile_example(example):
    return compile(example, str(README), "exec")


def test_relative_links_point_at_files():
    for target in re.findall(r"\]\(([^)#:]+)\)", README.read_text()):
        assert (README.parent / target).exists(), target
