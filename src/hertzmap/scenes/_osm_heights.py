"""Building heights from OpenStreetMap tags, by a fixed order of rules."""

import re

LEVEL_M = 3.0
"""Height of one storey [m], floor to floor; assumption, as in OpenStreetMap's 3D renderers."""
DEFAULT_M = 10.0
"""Height of a building of unknown type [m]; assumption: three storeys and a low roof."""
LEAST_M = 2.0
"""Lower tags are raised to this [m]: below it nothing is a building."""
GREATEST_M = 830.0
"""Higher tags are lowered to this [m]. Source: Burj Khalifa, 828 m, the tallest building."""

_STOREYS = {
    1.0: (
        "allotment_house bungalow cabin carport container garage garages greenhouse guardhouse hut "
        "kiosk roof service shed shelter stable static_caravan storage toilets transformer"
    ),
    2.0: (
        "barn detached farm farm_auxiliary house kindergarten retail semidetached_house "
        "supermarket terrace parking temple mosque"
    ),
    3.0: "civic college commercial fire_station government industrial public school warehouse",
    4.0: "apartments cathedral church dormitory hangar residential train_station university",
    5.0: "hospital hotel office stadium tower",
}
DEFAULT_BY_TYPE_M = {
    kind: LEVEL_M * storeys for storeys, kinds in _STOREYS.items() for kind in kinds.split()
}
"""Height [m] of a building that says only its type. Assumption: typical storeys of the type,
3 m each; halls and churches count the storeys they would fill."""

_FEET_M = 0.3048
_NUMBER = r"(\d+(?:[.,]\d+)?)"
_METRES = re.compile(rf"^{_NUMBER}\s*(?:m|metres?|meters?)?\.?$", re.IGNORECASE)
_FEET = re.compile(
    rf"^{_NUMBER}\s*(?:'|ft|feet|foot)\s*(?:{_NUMBER}\s*(?:\"|''|in|inch|inches)?)?$", re.IGNORECASE
)


def _number(text: str) -> float:
    return float(text.replace(",", "."))


def parse_metres(text: str) -> float | None:
    r"""A length in the ways people write it, in metres; None if it is no length.

    >>> parse_metres("12"), parse_metres("12,5 m"), parse_metres("tall")
    (12.0, 12.5, None)
    >>> round(parse_metres("40'6\""), 4)
    12.3444
    """
    text = text.strip()
    metres = _METRES.match(text)
    if metres:
        return _number(metres[1])
    feet = _FEET.match(text)
    if feet:
        return _FEET_M * (_number(feet[1]) + (_number(feet[2]) / 12.0 if feet[2] else 0.0))
    return None


def parse_levels(text: str) -> float | None:
    """A number of storeys; the greatest of a list such as ``1;3``; None if it is none."""
    found = [re.fullmatch(r"-?\d+(?:[.,]\d+)?", piece.strip()) for piece in text.split(";")]
    numbers = [_number(match[0]) for match in found if match]
    return max(numbers) if numbers else None


def _clamped(height_m: float, rule: str) -> tuple[float, str]:
    inside = min(max(height_m, LEAST_M), GREATEST_M)
    return (inside, rule if inside == height_m else f"{rule}:clamped")


def height_of(tags: dict[str, str]) -> tuple[float, str]:
    """Height [m] of a building above ground and the rule that gave it.

    Order: ``height`` (or ``building:height``); ``building:levels`` at 3 m each plus
    ``roof:height`` or ``roof:levels`` at 3 m each (a building of 0 levels is all roof); the
    default of its type, else 10 m. Values that cannot be read or are not above 0 fall to the next
    rule; heights outside 2 m to 830 m are clamped and the rule ends in ``:clamped``.

    >>> height_of({"building": "yes", "building:levels": "4", "roof:levels": "1"})
    (15.0, 'levels')
    """
    for key in ("height", "building:height"):
        height = parse_metres(tags.get(key, ""))
        if height:
            return _clamped(height, "height")
    levels = parse_levels(tags.get("building:levels", ""))
    if levels is not None and levels >= 0:
        roof = parse_metres(tags.get("roof:height", ""))
        if roof is None:
            roof = LEVEL_M * max(parse_levels(tags.get("roof:levels", "")) or 0.0, 0.0)
        if levels * LEVEL_M + roof > 0:
            return _clamped(levels * LEVEL_M + roof, "levels")
    kind = tags.get("building") or tags.get("building:part") or "yes"
    return DEFAULT_BY_TYPE_M.get(kind, DEFAULT_M), f"default:{kind}"


def base_m(tags: dict[str, str]) -> float:
    """Height of a building's underside above ground [m]; 0 for one that stands on it."""
    base = parse_metres(tags.get("min_height", "") or tags.get("building:min_height", ""))
    if base is not None:
        return base
    return LEVEL_M * max(parse_levels(tags.get("building:min_level", "")) or 0.0, 0.0)
