"""How wide roads are, by their class."""

WIDTH_M = {
    "motorway": 12.0,
    "trunk": 10.0,
    "primary": 9.0,
    "secondary": 8.0,
    "tertiary": 7.0,
    "residential": 6.0,
    "unclassified": 6.0,
    "living_street": 5.0,
    "service": 4.0,
    "pedestrian": 4.0,
    "track": 3.0,
}
"""Usual widths of carriageways [m] by OSM ``highway`` value; assumption."""
PATH_M = 2.0
"""Width of other ways [m]."""


def width_m(kind: str) -> float:
    """Width of a road [m] by its OSM ``highway`` value; a link is as wide as what it leads to.

    >>> width_m("primary_link"), width_m("steps")
    (9.0, 2.0)
    """
    return WIDTH_M.get(kind.removesuffix("_link"), PATH_M)
