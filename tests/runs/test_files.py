"""Files are whole or absent; seeds are functions of their labels."""

import subprocess
import sys

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geomrl.errors import GeomrlError
from geomrl.files import atomic_path, file_hash, read_json, read_parquet, write_json, write_parquet
from geomrl.runs.manifest import record_step
from geomrl.seeds import derive_seed

labels = st.lists(st.one_of(st.text(max_size=6), st.integers()), max_size=4)


@given(labels, labels, st.integers(0, 2**40))
def test_seeds_differ_by_label_and_fit_every_generator(one, other, seed):
    texts = ([str(x) for x in one], [str(x) for x in other])
    if texts[0] != texts[1] and not any("\x1f" in t for side in texts for t in side):
        assert derive_seed(seed, *one) != derive_seed(seed, *other)
    assert derive_seed(seed, *one) == derive_seed(seed, *one)
    assert 0 <= derive_seed(seed, *one) < 2**63


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text(f"half {1 / 0}")
    assert read_json(path) == {"x": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["parquet", "safetensors", "json"])
def test_full_disk_is_named_and_leaves_nothing(kind, tmp_path):
    """A file-size limit stands in for the full disk: the system refuses the write half-way."""
    code = f"""
import resource, signal
import numpy as np, pandas as pd
from safetensors.numpy import save_file
from geomrl.files import atomic_path, write_json, write_parquet
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
from pathlib import Path
path = Path({str(tmp_path)!r}) / "big"
if {kind!r} == "parquet":
    write_parquet(path, pd.DataFrame({{"x": [str(i ** 3) for i in range(100000)]}}))
elif {kind!r} == "json":
    write_json(path, list(range(100000)))
else:
    with atomic_path(path) as temporary:
        save_file({{"x": np.zeros(100000)}}, temporary)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert "the disk is full" in done.stderr.splitlines()[-1]
    assert "same command again" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_parquet_errors_name_file_and_cure(tmp_path):
    path = tmp_path / "t.parquet"
    with pytest.raises(GeomrlError, match=r"t.parquet: no such file"):
        read_parquet(path)
    path.touch()
    with pytest.raises(GeomrlError, match="empty"):
        read_parquet(path)
    write_parquet(path, pd.DataFrame({"x": range(1000)}))
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(GeomrlError, match=r"t.parquet: not a whole parquet.*delete it"):
        read_parquet(path)


def test_settings_that_differ_are_listed(tmp_path):
    record_step(tmp_path, "rollouts", {"n": 8}, begun=False)
    record_step(tmp_path, "rollouts", {"n": 16, "seed": 0}, begun=False)  # nothing was made with 8
    record_step(tmp_path, "rollouts", {"n": 16, "seed": 0}, begun=True)
    with pytest.raises(GeomrlError, match=r"n: 16 there, 32 now"):
        record_step(tmp_path, "rollouts", {"n": 32, "seed": 0}, begun=True)


def test_hub_blob_is_not_read_for_its_hash(tmp_path):
    blob = tmp_path / ("ab" * 32)
    blob.write_text("x")
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    assert file_hash(link) == "ab" * 32
    assert file_hash(tmp_path / "model.safetensors") != file_hash(__file__)
