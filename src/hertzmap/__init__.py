"""Radio maps and positions from sparse, noisy, misplaced measurements."""

__version__ = "0.1.0"
