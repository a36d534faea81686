"""A scene as meshes for ray tracers: binary PLY files, a Mitsuba scene file, and their record.

Vertices are in the scene's local metres, so no reader adds an origin of its own.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import shapely

from hertzmap.core.errors import DataError, SceneError
from hertzmap.core.types import Scene
from hertzmap.scenes._solids import Surface, disjoint, merged, prism

GROUND = "medium_dry_ground"
"""Material of the ground."""
WALLS = "concrete"
"""Material of a building of unknown material."""
MARGIN_M = 50.0
"""Ground beyond the buildings and the scene's bounds [m]."""
THICKNESS_M = {
    "brick": 0.2,
    "concrete": 0.2,
    "glass": 0.02,
    "metal": 0.01,
    "wood": 0.05,
    "very_dry_ground": 10.0,
    "medium_dry_ground": 10.0,
    "wet_ground": 10.0,
}
"""Materials of Recommendation ITU-R P.2040 that a scene may name, and the thickness of their slab
[m]: usual walls, and ground deep enough that nothing comes back from below; assumptions."""


def scene_digest(scene: Scene) -> str:
    """SHA-256 over what an export depends on: outlines, heights, materials, bounds and frame."""
    digest = hashlib.sha256()
    for footprint in scene.footprints:
        digest.update(shapely.to_wkb(footprint, byte_order=1, output_dimension=2))
    digest.update(scene.height_m.astype("<f8").tobytes())
    facts = [scene.materials, scene.bounds_m, scene.crs, scene.origin_m]
    digest.update(json.dumps(facts).encode())
    return digest.hexdigest()


def surfaces(scene: Scene, *, margin_m: float = MARGIN_M) -> dict[str, tuple[str, Surface]]:
    """Meshes of a scene by name, each with its material: buildings per material, and the ground.

    Raises:
        SceneError: if a material is not known.
    """
    names = np.array(scene.materials or (WALLS,) * len(scene.footprints))
    unknown = sorted(set(names.tolist()) - set(THICKNESS_M))
    if unknown:
        msg = f"{', '.join(unknown)} is no known material; choose from {', '.join(THICKNESS_M)}"
        raise SceneError(msg)
    made: dict[str, tuple[str, Surface]] = {}
    for material in np.unique(names).tolist():
        chosen = np.flatnonzero(names == material)
        pieces = disjoint([scene.footprints[i] for i in chosen], scene.height_m[chosen])
        solids = [prism(piece, 0.0, top) for piece, top in pieces]
        made[f"buildings-{material}"] = (material, merged(solids))
    made["ground"] = (GROUND, _flat_ground(scene, margin_m))
    return made


def write_mitsuba(scene: Scene, folder: Path, *, margin_m: float = MARGIN_M) -> Path:
    """Write a scene for ray tracers: ``scene.xml``, ``meshes/*.ply`` and ``scene.json``.

    Shapes are called ``mesh-buildings-<material>`` and ``mesh-ground``; materials are
    ``itu-radio-material`` with ids ``mat-<name>-rm``.

    Args:
        scene: what to write.
        folder: where to; older files of the same names are replaced.
        margin_m: ground beyond the buildings and the scene's bounds [m].

    Returns:
        Path of ``scene.xml``.

    Raises:
        SceneError: if a material is not known.
        DataError: if the folder cannot be written.
    """
    made = surfaces(scene, margin_m=margin_m)
    files = {f"meshes/{name}.ply": ply_bytes(surface) for name, (_, surface) in made.items()}
    record = {
        "name": scene.name,
        "crs": scene.crs,
        "origin_m": list(scene.origin_m),
        "bounds_m": list(scene.bounds_m),
        "attribution": scene.attribution,
        "scene_sha256": scene_digest(scene),
        "heights_from": _shares(scene),
        "meshes": {
            name: {"material": material, "triangles": len(surface.triangles)}
            for name, (material, surface) in made.items()
        },
    }
    files["scene.json"] = (json.dumps(record, indent=1) + "\n").encode()
    files["scene.xml"] = _xml({name: material for name, (material, _) in made.items()})
    _write_folder(folder, files)
    return folder / "scene.xml"


def ply_bytes(surface: Surface) -> bytes:
    """A surface as PLY: binary, little-endian, float32 vertices, triangles."""
    header = (
        "ply\nformat binary_little_endian 1.0\n"
        f"element vertex {len(surface.points_m)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        f"element face {len(surface.triangles)}\n"
        "property list uchar int vertex_indices\nend_header\n"
    )
    faces = np.empty(len(surface.triangles), dtype=[("count", "u1"), ("corner", "<i4", 3)])
    faces["count"] = 3
    faces["corner"] = surface.triangles
    return header.encode() + surface.points_m.astype("<f4").tobytes() + faces.tobytes()


def _flat_ground(scene: Scene, margin_m: float) -> Surface:
    edges = np.array([scene.bounds_m, *(footprint.bounds for footprint in scene.footprints)])
    west, south = (edges[:, :2].min(axis=0) - margin_m).tolist()
    east, north = (edges[:, 2:].max(axis=0) + margin_m).tolist()
    corners = np.array([[west, south, 0], [east, south, 0], [east, north, 0], [west, north, 0]])
    return Surface(corners.astype(np.float64), np.array([[0, 1, 2], [0, 2, 3]]))


def _shares(scene: Scene) -> dict[str, float]:
    rules = np.array([rule.partition(":")[0] for rule in scene.height_rule])
    return {str(rule): round(float((rules == rule).mean()), 4) for rule in np.unique(rules)}


def _xml(material_of: dict[str, str]) -> bytes:
    lines = ['<scene version="2.1.0">']
    for material in sorted(set(material_of.values())):
        lines += [
            f' <bsdf type="itu-radio-material" id="mat-{material}-rm">',
            f'  <string name="type" value="{material}"/>',
            f'  <float name="thickness" value="{THICKNESS_M[material]:g}"/>',
            " </bsdf>",
        ]
    for name, material in material_of.items():
        lines += [
            f' <shape type="ply" id={quoteattr(f"mesh-{name}")}>',
            f'  <string name="filename" value={quoteattr(f"meshes/{name}.ply")}/>',
            '  <boolean name="face_normals" value="true"/>',
            f'  <ref id="mat-{material}-rm" name="bsdf"/>',
            " </shape>",
        ]
    return "\n".join([*lines, "</scene>", ""]).encode()


def _write_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Write a folder's files beside it and move them in, so that each is whole or absent."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        try:
            for name, content in files.items():
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                (partial / name).write_bytes(content)
            for name in files:  # in order: what names the others comes last
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (partial / name).replace(folder / name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        msg = f"cannot write {folder} ({error.strerror or error}); choose another folder"
        raise DataError(msg) from error
