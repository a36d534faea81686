import json
import xml.etree.ElementTree as ET

import numpy as np
import shapely

from hertzmap.scenes._solids import extrude
from hertzmap.scenes.export import write_mitsuba
from hertzmap.scenes.synthetic import city


def volume(surface):
    a, b, c = (surface.points_m[surface.triangles[:, k]] for k in range(3))
    return np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6.0


def edge_counts(triangles):
    sides = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    return np.unique(sides, axis=0, return_counts=True)


def test_a_prism_is_closed_and_holds_its_volume():
    yard = shapely.box(0, 0, 20, 10).difference(shapely.box(5, 3, 12, 7))
    surface = prism(yard, 0.0, 8.0)
    edges, counts = edge_counts(surface.triangles)
    assert (counts == 1).all()  # each edge once in each direction
    assert {tuple(e) for e in edges} == {tuple(e[::-1]) for e in edges}
    np.testing.assert_allclose(volume(surface), yard.area * 8.0)


def test_mitsuba_files_name_each_other(tmp_path):
    scene = city(1, buildings=4)
    path = write_mitsuba(scene, tmp_path / "out")
    root = ET.fromstring(path.read_text())
    for shape in root.findall("shape"):
        assert (path.parent / shape.find("string").get("value")).is_file()
    materials = {bsdf.get("id") for bsdf in root.findall("bsdf")}
    assert materials == {"mat-concrete-rm", "mat-medium_dry_ground-rm"}
    assert {shape.find("ref").get("id") for shape in root.findall("shape")} == materials
    assert json.loads((path.parent / "scene.json").read_text())["crs"] == "LOCAL"
