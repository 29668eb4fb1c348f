"""Random seeds derived from labels.

Every draw in geomrl takes its seed from a hash of the run's seed and the names of what is drawn
(the problem, the sample, the measure), so that adding a measure or a problem never shifts the
draw of another.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


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
