"""Posterior and truth become numbers; never knows which method made them."""
