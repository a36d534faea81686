"""Reports and site become a MapPosterior; one file per method."""
