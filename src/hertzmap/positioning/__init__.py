"""Measurements and site become a PositionPosterior; one file per method."""
