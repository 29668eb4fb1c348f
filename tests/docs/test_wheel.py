"""What `pip install` of the built wheel gives: all of the package, with its model and templates."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"


def test_the_wheel_holds_every_file_of_the_package(tmp_path):
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "geomrl", source / "geomrl", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-c", BUILD, str(tmp_path)], cwd=source, check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    package = [path for path in (ROOT / "geomrl").rglob("*") if path.is_file()]
    ours = {str(p.relative_to(ROOT)) for p in package if "__pycache__" not in p.parts}
    assert "geomrl/reasoner/checkpoint/model.safetensors" in ours
    assert ours - held == set()
    assert {name for name in held - ours if ".dist-info/" not in name} == set()
