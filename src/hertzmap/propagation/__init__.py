"""A Scene and Transmitters become RadioMaps."""
