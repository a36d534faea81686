"""Method and data become a checkpoint."""
