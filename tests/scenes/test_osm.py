import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import shapely

from hertzmap.core.errors import SceneError
from hertzmap.datasets.remote import data_root
from hertzmap.scenes.frame import to_local, to_lonlat
from hertzmap.scenes.osm import ATTRIBUTION, read_osm

LON, LAT = 8.69, 49.41
RING = [(0, 0), (40, 0), (40, 40), (0, 40), (0, 0)]
INNER = [(10, 10), (30, 10), (30, 30), (10, 30), (10, 10)]
ISLAND = [(15, 15), (25, 15), (25, 25), (15, 25), (15, 15)]
PAIR = [("way", 1, "outer"), ("way", 2, "inner")]


def area(scene):
    return sum(footprint.area for footprint in scene.footprints)


def reasons(scene):
    return {skipped.source_id: skipped.reason for skipped in scene.skipped}


def test_a_closed_building_way_becomes_one_footprint_of_its_size(draft, tmp_path):
    scene = read_osm(draft.box(1, 0, 0, 20, 10, building="yes").write(tmp_path / "a.osm"))
    assert scene.source_id == ("way/1",)
    assert area(scene) == pytest.approx(200.0, rel=0.01)
    assert (scene.crs, scene.name, scene.attribution) == ("EPSG:32632", "a", ATTRIBUTION)


def test_the_origin_is_the_centre_rounded_to_the_metre(draft, tmp_path):
    scene = read_osm(draft.box(1, 0, 0, 60, 30, building="yes").write(tmp_path / "a.osm"))
    assert scene.origin_m == tuple(np.round(scene.origin_m))
    west, south, east, north = scene.bounds_m
    assert abs(west + east) <= 2.0 and abs(south + north) <= 2.0


def test_materials_come_from_tags_and_the_facade_goes_first(draft, tmp_path):
    draft.box(1, 0, 0, 20, 10, building="yes", **{"building:material": "brick"})
    tags = {"building:material": "brick", "building:facade:material": "glass;metal"}
    draft.box(2, 50, 0, 20, 10, building="yes", **tags)
    draft.box(3, 100, 0, 20, 10, building="yes", **{"building:material": "gingerbread"})
    scene = read_osm(draft.write(tmp_path / "a.osm"))
    named = dict(zip(scene.source_id, scene.materials, strict=True))
    assert named == {"way/1": "brick", "way/2": "glass", "way/3": ""}


def test_a_courtyard_stays_free(draft, tmp_path):
    draft.way(1, RING).way(2, INNER).relation(3, PAIR, type="multipolygon", building="yes")
    scene = read_osm(draft.write(tmp_path / "a.osm"))
    assert scene.source_id == ("relation/3",)
    assert area(scene) == pytest.approx(1600.0 - 400.0, rel=0.01)
    assert not scene.footprints[0].contains(scene.footprints[0].centroid)


def test_a_building_in_a_courtyard_is_a_building_again(draft, tmp_path):
    members = [*PAIR, ("way", 4, "outer")]
    draft.way(1, RING).way(2, INNER).way(4, ISLAND)
    draft.relation(3, members, type="multipolygon", building="yes")
    scene = read_osm(draft.write(tmp_path / "a.osm"))
    assert scene.source_id == ("relation/3", "relation/3")
    assert area(scene) == pytest.approx(1600.0 - 400.0 + 100.0, rel=0.01)


def test_open_ways_are_joined_to_a_ring(draft, tmp_path):
    members = [("way", 1, "outer"), ("way", 2, "outer")]
    draft.way(1, RING[:3]).way(2, [RING[0], RING[3], RING[2]])
    draft.relation(3, members, type="multipolygon", building="yes")
    scene = read_osm(draft.write(tmp_path / "a.osm"))
    assert area(scene) == pytest.approx(1600.0, rel=0.01)
    assert not scene.skipped


def test_tags_on_the_outer_way_keep_the_courtyard(draft, tmp_path):
    draft.way(1, RING, building="yes").way(2, INNER).relation(3, PAIR, type="multipolygon")
    scene = read_osm(draft.write(tmp_path / "a.osm"))
    assert scene.source_id == ("way/1",)
    assert area(scene) == pytest.approx(1200.0, rel=0.01)


def test_a_garden_on_the_roof_makes_no_hole(draft, tmp_path):
    draft.way(1, RING, building="yes").way(2, INNER)
    draft.relation(3, PAIR, type="multipolygon", leisure="garden")
    assert area(read_osm(draft.write(tmp_path / "a.osm"))) == pytest.approx(1600.0, rel=0.01)


def test_an_outline_tagged_twice_counts_once_and_lends_its_height(draft, tmp_path):
    draft.way(1, RING, building="yes", height="21").way(2, INNER)
    draft.relation(3, PAIR, type="multipolygon", building="yes")
    scene = read_osm(draft.write(tmp_path / "a.osm"))
    assert scene.source_id == ("relation/3",)
    assert scene.height_m.tolist() == [21.0]
    assert reasons(scene) == {"way/1": "outline of relation/3, which stands for it"}


def test_a_ring_that_crosses_itself_loses_no_part(draft, tmp_path):
    draft.way(1, [(0, 0), (20, 20), (20, 0), (0, 20), (0, 0)], building="yes")
    scene = read_osm(draft.write(tmp_path / "a.osm"))
    assert scene.source_id == ("way/1", "way/1")
    assert all(footprint.is_valid for footprint in scene.footprints)
    assert area(scene) == pytest.approx(200.0, rel=0.01)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda d: d.way(2, RING[:4], building="yes"), "its outline of 4 nodes is no closed ring"),
        (lambda d: d.way(2, RING[:3], 2, building="yes"), "2 of its 5 nodes lie outside"),
        (lambda d: d.way(2, RING, building="no"), "tagged building=no"),
        (lambda d: d.way(2, RING, building="yes", location="underground"), "underground"),
        (lambda d: d.way(2, RING, building="yes", min_height="5"), "hangs 5 m above free ground"),
        (lambda d: d.way(2, [(0, 0), (9, 0), (5, 0), (0, 0)], building="yes"), "no area"),
    ],
)
def test_what_is_no_footprint_is_skipped_with_its_reason(draft, tmp_path, build, reason):
    build(draft.box(1, 100, 100, 120, 120, building="yes"))
    scene = read_osm(draft.write(tmp_path / "a.osm"))
    assert scene.source_id == ("way/1",)
    assert reason in reasons(scene)["way/2"]


@pytest.mark.parametrize(
    ("members", "tags", "reason"),
    [
        ([("way", 8, "outer")], {"type": "multipolygon"}, "way/8 lies outside the extract"),
        ([("way", 2, "outer")], {"type": "multipolygon"}, "a line of 80 m is not closed"),
        ([("way", 1, "")], {"type": "site"}, "a site groups buildings"),
        ([("way", 1, "outline")], {"type": "building"}, "outline way/1 is the building"),
        ([("relation", 9, "outer")], {"type": "multipolygon"}, "its members are relation/9"),
        ([("way", 1, "outer")], {"type": "multipolygon", "building": "no"}, "building=no"),
    ],
)
def test_a_relation_without_outline_is_skipped_with_its_reason(
    draft, tmp_path, members, tags, reason
):
    draft.box(1, 100, 100, 120, 120, building="yes").way(2, RING[:3])
    draft.relation(3, members, **({"building": "yes"} | tags))
    scene = read_osm(draft.write(tmp_path / "a.osm"))
    assert scene.source_id == ("way/1",)
    assert reason in reasons(scene)["relation/3"]


def test_a_relation_with_a_missing_member_is_kept_in_part_and_says_so(draft, tmp_path):
    members = [*PAIR, ("way", 8, "outer")]
    draft.way(1, RING).way(2, INNER).relation(3, members, type="multipolygon", building="yes")
    scene = read_osm(draft.write(tmp_path / "a.osm"))
    assert area(scene) == pytest.approx(1200.0, rel=0.01)
    assert reasons(scene)["relation/3"] == "kept in part: way/8 lies outside the extract"


def test_parts_that_fill_an_outline_stand_for_it(draft, tmp_path):
    draft.way(1, RING, building="yes", height="30")
    draft.box(2, 0, 0, 20, 40, building__part="yes", height="30")
    draft.box(3, 20, 0, 40, 40, building__part="yes", height="10")
    scene = read_osm(draft.write(tmp_path / "a.osm"))
    assert dict(zip(scene.source_id, scene.height_m, strict=True)) == {"way/2": 30, "way/3": 10}
    assert reasons(scene) == {"way/1": "replaced by the building parts that fill it"}


def test_a_part_of_unknown_height_yields_to_its_outline(draft, tmp_path):
    draft.way(1, RING, building="yes", height="5").way(2, INNER, building__part="yes")
    scene = read_osm(draft.write(tmp_path / "a.osm"))
    assert scene.height_m.tolist() == [5.0]
    assert "unknown height" in reasons(scene)["way/2"]


def test_a_tower_on_a_building_stays(draft, tmp_path):
    draft.way(1, RING, building="yes", height="5")
    draft.way(2, INNER, building__part="yes", height="50", min_height="5")
    scene = read_osm(draft.write(tmp_path / "a.osm"))
    assert sorted(scene.height_m.tolist()) == [5.0, 50.0]


def test_roads_are_lines_and_squares_are_none(draft, tmp_path):
    draft.way(1, RING, building="yes").way(2, [(0, 9), (40, 9)], highway="footway")
    draft.way(3, INNER, highway="pedestrian", area="yes")
    draft.way(4, [(0, 5), (9, 5)], 1, highway="primary")
    scene = read_osm(draft.write(tmp_path / "a.osm"))
    assert [road.kind for road in scene.roads] == ["footway", "primary"]
    assert scene.roads[0].line.length == pytest.approx(40.0, rel=0.01)


def test_order_compression_and_format_of_the_file_do_not_matter(draft, tmp_path):
    import osmium

    draft.first_id = -1  # as editors number what is new
    draft.way(1, RING).way(2, INNER).relation(3, PAIR, type="multipolygon", building="yes")
    plain = draft.write(tmp_path / "a.osm")
    packed = tmp_path / "a.osm.gz"
    packed.write_bytes(gzip.compress(draft.write(tmp_path / "b.osm", nodes_last=True).read_bytes()))
    with osmium.SimpleWriter(tmp_path / "a.osm.pbf") as writer:
        for element in osmium.FileProcessor(plain):
            writer.add(element)
    scenes = [read_osm(path) for path in (plain, packed, tmp_path / "a.osm.pbf")]
    for scene in scenes[1:]:
        assert scene.footprints[0].equals_exact(scenes[0].footprints[0], 0.02)
        assert (scene.source_id, scene.origin_m) == (scenes[0].source_id, scenes[0].origin_m)


def town(draft, tmp_path):
    for number, west in enumerate((0, 100, 200, 300), start=1):
        draft.box(number, west, 0, west + 20, 20, building="yes")
        draft.way(number + 10, [(west, 30), (west + 10, 30), (west + 10, 40)], building="yes")
    return draft.write(tmp_path / "town.osm")


def test_a_box_keeps_whole_what_meets_it(draft, tmp_path):
    path = town(draft, tmp_path)
    whole = read_osm(path)
    corners = to_lonlat(whole, np.array([[-60.0, -50.0], [45.0, 50.0]]))
    scene = read_osm(path, box_lonlat=tuple(corners.ravel().tolist()))
    assert scene.source_id == ("way/2", "way/3")
    assert area(scene) == pytest.approx(800.0, rel=0.01)
    assert set(reasons(scene)) == {"way/12", "way/13"}
    assert scene.bounds_m[2] - scene.bounds_m[0] == pytest.approx(105.0, abs=1.0)


def test_a_square_around_a_centre_has_the_centre_at_zero(draft, tmp_path):
    path = town(draft, tmp_path)
    whole = read_osm(path)
    first = np.array(whole.footprints[0].centroid.coords)
    lon, lat = to_lonlat(whole, first)[0].tolist()
    scene = read_osm(path, centre_lonlat=(lon, lat), radius_m=30.0)
    assert scene.source_id == ("way/1",)
    assert np.abs(to_local(scene, np.array([[lon, lat]]))).max() <= 0.5
    assert scene.bounds_m[2] - scene.bounds_m[0] == pytest.approx(60.0)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (None, "gone.osm", "does not exist"),
        (b"", "empty.osm.pbf", "is empty"),
        (b"lon,lat\n1,2\n", "table.csv", "is no OpenStreetMap file: its name must end in"),
        (b"lon,lat\n1,2\n", "table.osm", "damaged or no OpenStreetMap file"),
        (b"\x00\x01\x02\x03" * 99, "noise.osm.pbf", "damaged or no OpenStreetMap file"),
        (b'<gpx version="1.1"></gpx>', "track.osm", "damaged or no OpenStreetMap file"),
        (b'<osm version="0.6"><node id="1" lat="1', "cut.osm", "damaged or no OpenStreetMap"),
        (gzip.compress(b'<osm version="0.6"></osm>')[:-9], "cut.osm.gz", "damaged or no Open"),
        (b'<osm version="0.6"></osm>', "bare.osm", "holds no map data"),
        (
            b'<osm version="0.6"><node id="1" lat="1" lon="1"/></osm>',
            "field.osm",
            "holds no buildings",
        ),
    ],
)
def test_a_file_that_is_no_extract_is_refused_with_what_is_wrong(tmp_path, content, name, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SceneError, match=message) as caught:
        read_osm(path)
    assert name in str(caught.value)


def test_a_box_outside_the_extract_is_told_the_extent(draft, tmp_path):
    with pytest.raises(SceneError, match=r"outside the map extract .* lon 8\.69000 to 8\.694"):
        read_osm(town(draft, tmp_path), box_lonlat=(8.0, 49.0, 8.1, 49.1))


def test_a_box_between_the_buildings_says_so(draft, tmp_path):
    path = town(draft, tmp_path)
    gap = to_lonlat(read_osm(path), np.array([[-85.0, -20.0], [-75.0, -15.0]]))
    with pytest.raises(SceneError, match="no buildings in the chosen area"):
        read_osm(path, box_lonlat=tuple(gap.ravel().tolist()))


def test_an_extract_of_skipped_buildings_names_them(draft, tmp_path):
    path = draft.way(1, RING[:4], building="yes").write(tmp_path / "a.osm")
    with pytest.raises(SceneError, match=r"1 skipped, e\.g\. way/1: its outline"):
        read_osm(path)


@pytest.mark.parametrize(
    ("area_asked", "message"),
    [
        ({"box_lonlat": (1.0, 1.0, 0.0, 2.0)}, "west < east"),
        ({"centre_lonlat": (8.69, 49.41)}, "belong together"),
        ({"radius_m": 50.0}, "belong together"),
        ({"centre_lonlat": (8.69, 49.41), "radius_m": -1.0}, "above 0"),
        ({"centre_lonlat": (49.41, 98.69), "radius_m": 9.0}, "outside UTM"),
        (
            {"box_lonlat": (8.0, 49.0, 9.0, 50.0), "centre_lonlat": (8.69, 49.41), "radius_m": 9.0},
            "not both",
        ),
    ],
)
def test_an_area_that_is_none_is_refused(draft, tmp_path, area_asked, message):
    path = draft.way(1, RING, building="yes").write(tmp_path / "a.osm")
    with pytest.raises(SceneError, match=message):
        read_osm(path, **area_asked)


def account_for_all(entry, folder):
    scene = read_osm(folder / entry["file"])
    told = set(scene.source_id) | {skipped.source_id for skipped in scene.skipped}
    ways = sum(source_id.startswith("way/") for source_id in told)
    assert ways == entry["buildings_ways"], entry["name"]
    assert len(told) - ways >= entry["building_relations"], entry["name"]
    assert shapely.is_valid(np.array(scene.footprints, dtype=object)).all()
    assert all(skipped.reason for skipped in scene.skipped)


def index_of(folder: Path):
    return json.loads((folder / "INDEX.json").read_text())


@pytest.mark.parametrize("name", ["paris_9e", "austin_ut", "nyc_eastvillage", "berlin_mitte"])
def test_every_counted_building_is_a_footprint_or_skipped(name):
    folder = data_root() / "osm"
    (entry,) = [entry for entry in index_of(folder) if entry["name"] == name]
    account_for_all(entry, folder)


@pytest.mark.slow
def test_every_counted_building_of_all_extracts_is_a_footprint_or_skipped():
    folder = data_root() / "osm"
    entries = index_of(folder)
    if len(entries) < 63:
        pytest.skip(f"{folder} holds {len(entries)} extracts, not all 63")
    for entry in entries:
        account_for_all(entry, folder)
