"""Nouns to disk and back; training data; interchange formats."""
