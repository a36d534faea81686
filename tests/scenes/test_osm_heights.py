import pytest

from hertzmap.scenes._osm_heights import (
    DEFAULT_BY_TYPE_M,
    GREATEST_M,
    LEAST_M,
    base_m,
    height_of,
    parse_levels,
    parse_metres,
)


@pytest.mark.parametrize(
    ("text", "metres"),
    [
        ("12", 12.0),
        (" 12 m ", 12.0),
        ("12m", 12.0),
        ("12,5", 12.5),
        ("12.5 metres", 12.5),
        ("40'", 12.192),
        ("40 ft", 12.192),
        ("40'6\"", 12.3444),
        ("40' 6''", 12.3444),
        ("5 feet 6 inches", 1.6764),
        ("", None),
        ("high", None),
        ("12-15", None),
        ("-3", None),
    ],
)
def test_lengths_are_read_as_people_write_them(text, metres):
    found = parse_metres(text)
    assert found == (None if metres is None else pytest.approx(metres))


@pytest.mark.parametrize(
    ("text", "levels"), [("3", 3.0), ("1;3", 3.0), ("-1;8", 8.0), ("2.5", 2.5), ("many", None)]
)
def test_levels_of_a_list_are_its_greatest(text, levels):
    assert parse_levels(text) == levels


@pytest.mark.parametrize(
    ("tags", "height_m", "rule"),
    [
        ({"height": "12", "building:levels": "9"}, 12.0, "height"),
        ({"building:height": "7 m"}, 7.0, "height"),
        ({"height": "tall", "building:levels": "4"}, 12.0, "levels"),
        ({"height": "0", "building:levels": "4"}, 12.0, "levels"),
        ({"building:levels": "4", "roof:levels": "1"}, 15.0, "levels"),
        ({"building:levels": "4", "roof:height": "2"}, 14.0, "levels"),
        ({"building:levels": "0", "roof:levels": "1"}, 3.0, "levels"),
        ({"building:levels": "0"}, 10.0, "default:yes"),
        ({"building:levels": "-2"}, 10.0, "default:yes"),
        ({}, 10.0, "default:yes"),
        ({"building": "house"}, DEFAULT_BY_TYPE_M["house"], "default:house"),
        ({"building": "ziggurat"}, 10.0, "default:ziggurat"),
        ({"height": "0.4"}, LEAST_M, "height:clamped"),
        ({"height": "12000"}, GREATEST_M, "height:clamped"),
        ({"building:levels": "900"}, GREATEST_M, "levels:clamped"),
    ],
)
def test_heights_follow_the_rules_in_their_order(tags, height_m, rule):
    assert height_of({"building": "yes", **tags}) == (pytest.approx(height_m), rule)


def test_garages_are_lower_than_houses_and_houses_than_flats():
    heights = [DEFAULT_BY_TYPE_M[kind] for kind in ("garage", "house", "apartments", "hospital")]
    assert heights == sorted(heights)


@pytest.mark.parametrize(
    ("tags", "base"),
    [({}, 0.0), ({"min_height": "4.5"}, 4.5), ({"building:min_level": "2"}, 6.0)],
)
def test_the_underside_is_read_from_height_or_levels(tags, base):
    assert base_m(tags) == base
