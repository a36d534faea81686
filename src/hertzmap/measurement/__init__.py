"""A RadioMap becomes Reports; the operator that simulates and inverts."""
