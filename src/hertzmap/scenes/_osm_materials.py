"""Wall materials from OpenStreetMap tags: a fixed table, nothing guessed.

Names are those of Recommendation ITU-R P.2040. A value that the table does not hold, or no value,
gives nothing; what then stands in for it is the engine's choice.

Source: OpenStreetMap's wiki on ``building:material`` and ``building:facade:material``; the
pairing with P.2040 is ours. Plaster, stone and blocks count as concrete, the nearest that P.2040
has in permittivity.
"""

KEYS = ("building:facade:material", "building:material", "building:cladding")
"""Tags, the first one that names a known material wins: the facade is what a wave meets first."""
MATERIALS = {
    "brick": "brick",
    "bricks": "brick",
    "brickwork": "brick",
    "clay": "brick",
    "concrete": "concrete",
    "reinforced_concrete": "concrete",
    "cement_block": "concrete",
    "plaster": "concrete",
    "stucco": "concrete",
    "stone": "concrete",
    "sandstone": "concrete",
    "limestone": "concrete",
    "granite": "concrete",
    "glass": "glass",
    "mirror": "glass",
    "metal": "metal",
    "metal_plates": "metal",
    "steel": "metal",
    "copper": "metal",
    "tin": "metal",
    "wood": "wood",
    "timber": "wood",
    "timber_framing": "wood",
}
"""P.2040 material of each tag value."""


def material_of(tags: dict[str, str]) -> str:
    """The P.2040 material that a building's tags name; empty where they name none.

    >>> material_of({"building": "yes", "building:material": "Brick"})
    'brick'
    """
    named = (tags.get(key, "").split(";")[0].strip().lower() for key in KEYS)
    return next((MATERIALS[value] for value in named if value in MATERIALS), "")
