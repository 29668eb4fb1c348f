"""What a run needs of memory and disk, and whether it is there: said before anything is loaded."""

import re
from dataclasses import MISSING, fields, replace
from pathlib import Path

import pytest
from commands import geomrl
from hypothesis import given
from hypothesis import strategies as st

from geomrl.errors import GeomrlError
from geomrl.train.config import load_config
from geomrl.train.job import rollout_engine, training_job
from geomrl.train.memory import Disk, Memory
from geomrl.train.preflight import check
from geomrl.train.room import disk_notes, memory_notes, require_disk

SMOKE = Path(__file__).parents[2] / "configs" / "smoke.yaml"
WEIGHTS = 138_976 * 4 / 1e6  # MB of the bundled model
GB = 1e9
sizes = st.floats(0, 200 * GB)
NEEDED = [field.name for field in fields(Memory) if field.default is MISSING]
memories = st.builds(Memory, **dict.fromkeys(NEEDED, sizes))


def lines(*sets, ranks=1):
    return check(load_config(SMOKE, sets), ranks)


def part(line, name):
    """The MB of a part in a line of the estimate; 0 where it is not named."""
    found = re.search(rf"(?:^|: |\+ ){name} ([0-9.]+) MB", line)
    return float(found[1]) if found else 0.0


def estimates(*sets, ranks=1):
    told = lines(*sets, ranks=ranks)
    return [
        next(line for line in told if line.startswith(f"memory of a rank at {phase}"))
        for phase in ("an update", "generation")
    ]


@pytest.mark.parametrize("phase", [0, 1])
def test_the_engine_that_samples_holds_a_model_of_its_own(phase):
    assert part(estimates()[phase], "the engine's model") == pytest.approx(WEIGHTS, abs=0.06)


@pytest.mark.parametrize("zero", [0, 3])
def test_the_reference_is_whole_on_every_rank(zero):
    update, _ = estimates("dapo.kl=0.1", f"deepspeed.zero={zero}", ranks=4)
    assert part(update, "reference model") == pytest.approx(WEIGHTS, abs=0.06)


def test_adapters_need_no_second_model_as_reference():
    update, _ = estimates("dapo.kl=0.1", "model.lora.rank=4")
    assert part(update, "reference model") == 0


def test_every_sum_is_that_of_its_parts():
    for line in estimates("dapo.kl=0.1"):
        numbers = [float(number) for number in re.findall(r"([0-9.]+) MB", line)]
        assert sum(numbers[:-1]) == pytest.approx(numbers[-1], abs=0.06 * len(numbers))


@given(memories, st.floats(1e9, 400e9), st.booleans(), st.booleans())
def test_a_phase_that_needs_more_than_the_gpu_has_is_told(memory, gpu, vllm, sleep):
    engine = "vllm" if vllm else "transformers"
    config = load_config(SMOKE, [f"rollout.engine={engine}", f"rollout.vllm.sleep={sleep}"])
    taken = rollout_engine(config).memory(training_job(config), weights=1, token=1)
    memory = replace(memory, share=taken.share, share_kept=taken.share_kept)
    told = memory_notes(memory, gpu=gpu, host=1e15, ranks_here=2)
    share = 0.4 * gpu if vllm else 0
    update = memory.updating + (0 if sleep else share)
    assert any("an update may need" in line for line in told) == (update > gpu)
    assert any("generation may need" in line for line in told) == (memory.generating + share > gpu)


@given(memories, st.floats(1e9, 1e12), st.integers(1, 8))
def test_without_a_gpu_all_ranks_share_the_host(memory, host, ranks):
    told = memory_notes(memory, gpu=None, host=host, ranks_here=ranks)
    assert bool(told) == (ranks * max(memory.updating, memory.generating) > host)


def test_a_disk_without_room_is_told_and_one_for_no_checkpoint_refused(tmp_path):
    run = tmp_path / "not" / "made"
    fits = Disk(1e3, 4e3)
    assert disk_notes(fits, run) == []
    require_disk(fits, run)
    large = Disk(1e3, 1e18)
    assert "may need 1,000,000,000.0 GB of disk" in disk_notes(large, run)[0]
    require_disk(large, run)
    with pytest.raises(GeomrlError, match="none could be written: free some space"):
        require_disk(Disk(1e18, 4e18), run)
    assert not run.exists()


def test_the_dry_run_prints_the_disk_beside_the_memory(tmp_path):
    done = geomrl(
        "train", SMOKE, "--dry-run", "--out", tmp_path / "run", "--set", "checkpoint.keep=0"
    )
    assert done.exit_code == 0, done.output
    # float32 and ZeRO-0: weights, Adam's moments, and the weights again as a Hugging Face folder;
    # two while the second is written, and the trained model.
    one = 16 * 138_976 / 1e6
    largest = 2 * one + WEIGHTS
    assert f"a checkpoint takes about {one:.1f} MB" in done.output
    assert f"holds {largest:.1f} MB" in done.output
