"""A table cell becomes numbers."""
