"""Law 16 of the exports: closed, outward, the right volume, and the way back to the footprints."""

import json
import time
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
import shapely
from shapely.affinity import rotate

from hertzmap.core.errors import DataError, SceneError
from hertzmap.core.grid import Grid
from hertzmap.core.types import Scene, Terrain
from hertzmap.datasets.splits import evaluation_tiles, load_extract
from hertzmap.scenes._meshes import building_meshes, ground_mesh, scene_digest
from hertzmap.scenes._solids import STEP_M
from hertzmap.scenes.export import write_gltf, write_mitsuba
from hertzmap.scenes.raster import window
from hertzmap.scenes.synthetic import city


def scene_of(*pairs, **others):
    """A scene of (footprint, height) pairs."""
    return Scene(
        tuple(footprint for footprint, _ in pairs),
        np.array([height for _, height in pairs], dtype=float),
        ("height",) * len(pairs),
        tuple(f"way/{k}" for k in range(len(pairs))),
        (-50.0, -50.0, 50.0, 50.0),
        **others,
    )


BOX = shapely.box
CASES = {
    "box": [(BOX(0, 0, 10, 20), 8.0)],
    "courtyard": [(BOX(0, 0, 20, 10) - BOX(5, 3, 12, 7), 9.5)],
    "house in a courtyard": [(BOX(0, 0, 20, 20) - BOX(5, 5, 15, 15), 9.0), (BOX(8, 8, 9, 9), 3.0)],
    "tower on a house": [(BOX(0, 0, 20, 20), 9.0), (BOX(5, 5, 10, 10), 30.0)],
    "tower at a corner": [(BOX(0, 0, 20, 20), 9.0), (BOX(10, 10, 25, 25), 30.0)],
    "row of houses": [(BOX(10 * k, 0, 10 * k + 10, 12 + k), 6.0 + k % 2) for k in range(5)],
    "party wall of another length": [(BOX(0, 0, 10, 10), 9.0), (BOX(10, 2, 20, 7), 9.0)],
    "lower beside higher": [(BOX(0, 0, 10, 10), 9.0), (BOX(10, 2, 20, 7), 4.0)],
    "corner to corner": [(BOX(0, 0, 10, 10), 9.0), (BOX(10, 10, 20, 20), 4.0)],
    "corner to corner, one height": [(BOX(0, 0, 10, 10), 9.0), (BOX(10, 10, 20, 20), 9.0)],
    "chequered": [
        (BOX(10 * c, 10 * r, 10 * c + 10, 10 * r + 10), 5.0 + 4.0 * ((r + c) % 2))
        for r in range(3)
        for c in range(3)
    ],
    "yard that touches its wall": [
        (BOX(0, 0, 20, 20) - shapely.Polygon([(0, 10), (5, 5), (5, 15)]), 7.0)
    ],
    "askew": [(rotate(BOX(0, 0, 9, 9), 7.0 * k), 5.0 + k) for k in range(6)],
    "the same twice": [(BOX(0, 0, 10, 10), 5.0), (BOX(0, 0, 10, 10), 5.0)],
    "corners on straight walls": [
        (shapely.segmentize(BOX(0, 0, 10, 10), 1.0), 5.0),
        (shapely.segmentize(BOX(10, 0, 20, 10), 2.0), 7.0),
    ],
}


def layers(scene):
    """Outlines without overlap, the higher first, by shapely: the oracle."""
    shapes = np.array(scene.footprints, dtype=object)
    taken, found = shapely.Polygon(), {}
    for height in np.unique(scene.height_m)[::-1].tolist():
        union = shapely.union_all(shapes[scene.height_m == height])
        found[height] = union.difference(taken)
        taken = taken.union(union)
    return found


def corners(surface):
    """Corners of all triangles as a file holds them."""
    return surface.points_m.astype(np.float32).astype(np.float64)[surface.triangles]


def normals(surface):
    a, b, c = np.moveaxis(corners(surface), 1, 0)
    return np.cross(b - a, c - a)


def volume(surface):
    a, b, c = np.moveaxis(corners(surface), 1, 0)
    return np.sum(a * np.cross(b, c)) / 6.0


def assert_closed(triangles, count):
    """Each edge belongs to two triangles, which run along it in opposite directions."""
    sides = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    there, times = np.unique(sides[:, 0] * count + sides[:, 1], return_counts=True)
    assert (times == 1).all()
    np.testing.assert_array_equal(there, np.unique(sides[:, 1] * count + sides[:, 0]))


def assert_holds(scene, surface):
    """Closed, no triangle a line, and volume and outlines as the oracle has them."""
    expected = layers(scene)
    outline = shapely.union_all(list(expected.values()))
    slack_m = 2.0 * STEP_M  # vertices move by 0.7 steps, flat corners go at 2 steps
    assert_closed(surface.triangles, len(surface.points_m))
    normal = normals(surface)
    assert (np.linalg.norm(normal, axis=1) > 1e-6).all()
    wanted = sum(height * shape.area for height, shape in expected.items())
    slack_m3 = sum(0.5 * STEP_M * height * shape.length for height, shape in expected.items())
    assert volume(surface) == pytest.approx(wanted, abs=slack_m3)
    flat = corners(surface)
    for height, shape in [(0.0, outline), *expected.items()]:
        facing = normal[:, 2] < 0 if height == 0 else normal[:, 2] > 0
        chosen = facing & (np.abs(flat[:, :, 2] - height) < STEP_M).all(axis=1)
        back = shapely.union_all(shapely.polygons(flat[chosen][:, :, :2]), grid_size=1e-6)
        assert back.symmetric_difference(shape).area <= slack_m * max(shape.length, 1.0)
    return outline


@pytest.mark.parametrize("case", CASES)
def test_buildings_are_one_closed_surface(case):
    scene = scene_of(*CASES[case])
    (surface,) = building_meshes(scene, None).values()
    outline = assert_holds(scene, surface)
    flat = corners(surface)
    upright = np.abs(normals(surface)[:, 2]) < 1e-9
    normal = normals(surface)[upright]
    middle = flat[upright].mean(axis=1)
    ahead = middle + 0.01 * normal / np.linalg.norm(normal, axis=1, keepdims=True)
    behind = middle - 0.01 * normal / np.linalg.norm(normal, axis=1, keepdims=True)

    def roof(place):
        top = [
            np.where(shapely.intersects_xy(shape, place[:, 0], place[:, 1]), height, 0.0)
            for shape, height in CASES[case]
        ]
        return np.max(top, axis=0)

    # every wall has open air before it and building behind it: none stands inside
    assert (roof(ahead) < middle[:, 2]).all() and (roof(behind) > middle[:, 2]).all()
    walls = sum(
        0.5 * np.linalg.norm(normal, axis=1)[np.abs(normal[:, k]) > 0].sum() for k in (0, 1)
    )
    if case in ("box", "courtyard"):
        assert walls == pytest.approx(outline.length * CASES[case][0][1])


def test_no_two_vertices_of_a_surface_are_needlessly_apart():
    scene = scene_of(*CASES["row of houses"])
    (surface,) = building_meshes(scene, None).values()
    assert len(np.unique(surface.points_m, axis=0)) == len(surface.points_m)


@pytest.mark.parametrize("name", ["paris_9e", "london_herne_hill"])
def test_a_real_district_obeys_the_same_laws(name):
    place = evaluation_tiles(name, 1)[0]
    scene = window(load_extract(name), place.grid)
    (surface,) = building_meshes(scene, None).values()
    assert_holds(scene, surface)


def test_three_hundred_buildings_are_quick(tmp_path):
    place = evaluation_tiles("heidelberg", 1)[0]
    scene = window(load_extract("heidelberg"), place.grid)
    assert len(scene.footprints) > 300
    seconds = []
    for _ in range(3):
        started = time.process_time()
        write_mitsuba(scene, tmp_path)
        seconds.append(time.process_time() - started)
    assert min(seconds) < 1.0  # 0.1 s on a free core


def test_materials_share_one_surface():
    pairs = [(BOX(0, 0, 10, 10), 9.0), (BOX(10, 0, 20, 10), 9.0), (BOX(20, 0, 30, 10), 5.0)]
    scene = scene_of(*pairs, materials=("brick", "", "brick"))
    meshes = building_meshes(scene, None)
    assert set(meshes) == {"brick", "concrete"}
    assert sum(volume(mesh) for mesh in meshes.values()) == pytest.approx(2300.0)
    places = np.concatenate([mesh.points_m for mesh in meshes.values()])
    starts = np.cumsum([0, *(len(mesh.points_m) for mesh in meshes.values())])
    triangles = np.concatenate(
        [m.triangles + s for m, s in zip(meshes.values(), starts[:-1], strict=True)]
    )
    _, welded = np.unique(places, axis=0, return_inverse=True)
    assert_closed(welded.ravel()[triangles], len(places))
    assert set(np.unique(meshes["concrete"].owner)) == {1}


def test_an_unknown_material_is_named():
    scene = scene_of((BOX(0, 0, 1, 1), 3.0), materials=("gingerbread",))
    with pytest.raises(SceneError, match=r"gingerbread.*choose materials from brick, concrete"):
        building_meshes(scene, None)


def test_a_slip_of_drawing_between_houses_is_closed():
    yard = BOX(0, 0, 20, 20) - BOX(5, 5, 15, 15)
    scene = scene_of((yard, 9.0), (BOX(5.004, 5, 15, 15), 9.0))
    (surface,) = building_meshes(scene, None).values()
    assert len(surface.triangles) == 12  # one box
    wide = scene_of((yard, 9.0), (BOX(5.4, 5, 15, 15), 9.0))
    assert_holds(wide, building_meshes(wide, None)["concrete"])


# --- terrain ------------------------------------------------------------------------------------


def slope(east_per_m=0.1, spacing_m=5.0):
    """Ground that rises to the east, 0 at east = 0."""
    grid = Grid(50, 50, spacing_m, (-125.0, -125.0))
    return Terrain(grid, east_per_m * grid.centres_m()[:, :, 0])


def test_terrain_look_ups_follow_the_mesh():
    draw = np.random.default_rng(1)
    grid = Grid(4, 5, 10.0, (-20.0, 5.0))
    terrain = Terrain(grid, draw.uniform(0, 9, grid.shape))
    np.testing.assert_allclose(terrain.up_at(grid.centres_m()), terrain.up_m)
    west, south, east, north = terrain.bounds_m
    places = draw.uniform((west, south), (east, north), (200, 2))
    scene = scene_of((BOX(-5, 15, 5, 25), 3.0))
    mesh = corners(ground_mesh(scene, terrain))
    for place, up in zip(places, terrain.up_at(places), strict=True):
        a, b, c = np.moveaxis(mesh, 1, 0)
        basis = np.stack([(b - a)[:, :2], (c - a)[:, :2]], axis=-1)
        weight = np.linalg.solve(basis, (place - a[:, :2])[:, :, None])[:, :, 0]
        inside = (weight >= -1e-9).all(axis=1) & (weight.sum(axis=1) <= 1 + 1e-9)
        found = a[:, 2] + weight[:, 0] * (b - a)[:, 2] + weight[:, 1] * (c - a)[:, 2]
        np.testing.assert_allclose(found[inside], up, atol=1e-5)


def test_a_building_stands_on_its_lowest_ground_and_keeps_its_height():
    scene = scene_of(
        (BOX(10, 0, 30, 10), 8.0), (BOX(30, 0, 40, 10), 8.0), (BOX(-20, 0, -15, 5), 4.0)
    )
    (surface,) = building_meshes(scene, slope()).values()
    assert_closed(surface.triangles, len(surface.points_m))
    up = surface.points_m[:, 2]
    first = (surface.points_m[:, 0] >= 10) & (surface.points_m[:, 0] < 30)
    assert up[first].min() == pytest.approx(1.0, abs=STEP_M)
    assert up[first].max() == pytest.approx(9.0, abs=STEP_M)
    assert up.max() == pytest.approx(3.0 + 8.0, abs=STEP_M)
    assert up.min() == pytest.approx(-2.0, abs=STEP_M)
    # the two that touch are one solid on the lower base
    wanted = 200 * 8.0 + 100 * 10.0 + 25 * 4.0
    assert volume(surface) == pytest.approx(wanted, rel=1e-3)


def test_terrain_that_is_too_small_is_refused():
    scene = scene_of((BOX(0, 0, 1, 1), 3.0), (BOX(200, 0, 210, 10), 3.0))
    with pytest.raises(SceneError, match=r"ends before 1 of 2 buildings .*way/1"):
        building_meshes(scene, slope())


# --- files --------------------------------------------------------------------------------------


def read_ply(path):
    """Vertices and triangles of a PLY file, by hand."""
    header, _, body = path.read_bytes().partition(b"end_header\n")
    assert header.startswith(b"ply\nformat binary_little_endian 1.0\n")
    counts = [int(line.split()[2]) for line in header.splitlines() if line.startswith(b"element")]
    points = np.frombuffer(body, "<f4", 3 * counts[0]).reshape(-1, 3)
    faces = np.frombuffer(body, [("n", "u1"), ("i", "<i4", 3)], offset=points.nbytes)
    assert len(faces) == counts[1] and (faces["n"] == 3).all()
    return points, faces["i"].astype(np.int64)


def test_mitsuba_files_name_each_other_and_hold_the_scene(tmp_path):
    scene = replace(city(1, buildings=4), attribution="© someone", origin_m=(5e5, 5.4e6))
    path = write_mitsuba(scene, tmp_path / "new" / "out")
    root = ET.fromstring(path.read_text())
    materials = {bsdf.get("id"): bsdf for bsdf in root.findall("bsdf")}
    assert set(materials) == {"mat-concrete-rm", "mat-medium_dry_ground-rm"}
    assert {bsdf.get("type") for bsdf in materials.values()} == {"itu-radio-material"}
    shapes = {shape.get("id"): shape for shape in root.findall("shape")}
    assert set(shapes) == {"mesh-buildings-concrete", "mesh-ground"}
    assert {ref.get("id") for ref in root.findall("shape/ref")} == set(materials)
    files = [path.parent / name.get("value", "") for name in root.findall("shape/string")]
    assert sorted(files) == sorted(path.parent.rglob("*.ply"))
    points, triangles = read_ply(path.parent / "meshes" / "buildings-concrete.ply")
    (surface,) = building_meshes(scene, None).values()
    np.testing.assert_array_equal(points, surface.points_m)  # float32 loses nothing
    np.testing.assert_array_equal(triangles, surface.triangles)
    ground, _ = read_ply(path.parent / "meshes" / "ground.ply")
    west, south, east, north = scene.bounds_m
    assert (ground.min(axis=0) <= (west - 50, south - 50, 0)).all()
    assert (ground.max(axis=0) >= (east + 50, north + 50, 0)).all()
    record = json.loads((path.parent / "scene.json").read_text())
    assert record["crs"] == "LOCAL" and record["origin_m"] == [5e5, 5.4e6]
    assert record["attribution"] == "© someone" and record["heights_from"] == {"synthetic": 1.0}
    assert record["scene_sha256"] == scene_digest(scene)
    assert not list(path.parent.glob(".*"))


def test_the_same_scene_gives_the_same_bytes_and_another_one_another_hash(tmp_path):
    first, second = (write_mitsuba(city(3), tmp_path / name).parent for name in "ab")
    for path in first.rglob("*.*"):
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes()
    scene = city(3)
    changed = [
        replace(scene, height_m=scene.height_m + 0.1),
        replace(scene, materials=("brick",) * len(scene.footprints)),
        replace(scene, footprints=(scene.footprints[0].buffer(0.01), *scene.footprints[1:])),
    ]
    digests = {scene_digest(scene), *(scene_digest(other) for other in changed)}
    assert len({*digests, scene_digest(scene, slope())}) == 5


def test_gltf_has_y_up_and_the_same_solid(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    scene = replace(city(1, buildings=4), attribution="© someone")
    path = write_gltf(scene, tmp_path / "city.glb")
    size = int.from_bytes(path.read_bytes()[12:16], "little")
    tree = json.loads(path.read_bytes()[20 : 20 + size])
    assert tree["asset"]["copyright"] == "© someone"
    assert all("uri" not in buffer for buffer in tree["buffers"])
    world = trimesh.load(path)
    assert set(world.geometry) == {"buildings-concrete", "ground", "roads"}
    solid = world.geometry["buildings-concrete"]
    (surface,) = building_meshes(scene, None).values()
    east, up, south = np.asarray(solid.vertices).T
    assert np.ptp(up) == pytest.approx(scene.height_m.max())
    places = np.unique(np.column_stack([east, -south, up]), axis=0)
    np.testing.assert_array_equal(places, np.unique(surface.points_m, axis=0))
    assert solid.volume == pytest.approx(volume(surface))  # a mirrored one would be negative
    assert world.metadata["scene_sha256"] == scene_digest(scene)
    roads = world.geometry["roads"]
    assert (np.asarray(roads.face_normals)[:, 1] > 0.99).all()


def test_gltf_roads_lie_on_the_terrain(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    scene = city(1, size_m=100.0, buildings=4)
    world = trimesh.load(write_gltf(scene, tmp_path / "city.glb", terrain=slope()))
    east, up, _ = np.asarray(world.geometry["roads"].vertices).T
    np.testing.assert_allclose(up, 0.1 * east + 0.1, atol=1e-4)


def test_other_endings_and_bad_folders_are_refused(tmp_path):
    scene = city(1, buildings=1)
    with pytest.raises(DataError, match=r"ends in \.glb"):
        write_gltf(scene, tmp_path / "city.gltf")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="choose another folder"):
        write_mitsuba(scene, tmp_path / "file")


def test_an_empty_place_is_bare_ground(tmp_path):
    scene = Scene((), np.empty(0), (), (), (0.0, 0.0, 10.0, 10.0))
    path = write_mitsuba(scene, tmp_path)
    assert [shape.get("id") for shape in ET.parse(path).findall("shape")] == ["mesh-ground"]
    write_mitsuba(scene, tmp_path / "hill", terrain=slope())
    assert write_gltf(scene, tmp_path / "bare.glb").is_file()
