"""The nouns, their units and the registry; imports nothing of ours above it and no framework."""
