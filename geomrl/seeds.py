"""Random seeds derived from labels.

Every draw in geomrl takes its seed from a hash of the run's seed and the names of what is drawn
(the problem, the sample, the measure), so that adding a measure or a problem never shifts the
draw of another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int


def derive_seed(seed: int, *labels: str | int) -> int:
    """Return a 63-bit seed that is a pure function of `seed` and `labels`.

    >>> derive_seed(0, "rollout", "aime24-60", 3) == derive_seed(0, "rollout", "aime24-60", 3)
    True
    >>> derive_seed(0, "a", "bc") == derive_seed(0, "ab", "c")
    False
    """
    text = "\x1f".join([str(int(seed)), *(str(label) for label in labels)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def derive_rng(seed: int, *labels: str | int) -> np.random.Generator:
    """Return a NumPy generator seeded by `derive_seed(seed, *labels)`."""
    import numpy as np

    return np.random.default_rng(derive_seed(seed, *labels))


def deal(names: Sequence[str], n: int, seed: int, label: str) -> Int[np.ndarray, " names"]:
    """Deal names into parts 0 .. n - 1 of equal size, up to one, in an order drawn by seed and label."""
    import numpy as np

    order = np.argsort([derive_seed(seed, label, name) for name in names])
    part = np.empty(len(names), dtype=int)
    part[order] = np.arange(len(names)) % n
    return part
