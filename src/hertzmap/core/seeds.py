"""One random generator per sample, addressed by (seed, index), so batch size changes nothing."""

import numpy as np


def generator(seed: int, *index: int) -> np.random.Generator:
    """Return the generator that belongs to one sample.

    Args:
        seed: the run's seed, at least 0.
        index: the sample's address, each at least 0 (e.g. city, tile, map).

    >>> bool(generator(1, 2).random() == generator(1, 2).random())
    True
    >>> bool(generator(1, 2).random() == generator(1, 3).random())
    False
    """
    return np.random.default_rng(np.random.SeedSequence([seed, *index]))
