"""A scene as files for ray tracers and viewers: Mitsuba XML with PLY meshes, and glTF.

Vertices are in the scene's local metres, so no reader adds an origin of its own.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

from hertzmap.core.errors import DataError
from hertzmap.core.types import Scene, Terrain
from hertzmap.scenes._meshes import (
    GROUND,
    MARGIN_M,
    THICKNESS_M,
    building_meshes,
    ground_mesh,
    road_mesh,
    scene_digest,
)
from hertzmap.scenes._solids import Surface

_COLOUR = {
    "brick": (168, 92, 70),
    "concrete": (190, 186, 178),
    "glass": (150, 185, 200),
    "metal": (140, 145, 150),
    "wood": (160, 125, 85),
    GROUND: (122, 132, 100),
    "road": (80, 80, 84),
}
"""Colours of a viewer's scene (red, green, blue)."""


def write_mitsuba(
    scene: Scene, folder: Path, *, terrain: Terrain | None = None, margin_m: float = MARGIN_M
) -> Path:
    """Write a scene for ray tracers: ``scene.xml``, ``meshes/*.ply`` and ``scene.json``.

    Shapes are ``mesh-buildings-<material>`` and ``mesh-ground``; materials are of the kind
    ``itu-radio-material`` with ids ``mat-<name>-rm``. Buildings that overlap or touch are one
    solid: the higher one wins, and no wall is left inside. The same scene gives the same bytes.

    Args:
        scene: what to write.
        folder: where to; files of the same names are replaced.
        terrain: the ground; flat at up = 0 if None. It must reach below all buildings.
        margin_m: flat ground beyond the buildings and the scene's bounds [m], at least 0.

    Returns:
        Path of ``scene.xml``.

    Raises:
        SceneError: if a material is not known or the terrain is too small.
        DataError: if the folder cannot be written.
    """
    buildings = building_meshes(scene, terrain)
    made = {f"buildings-{material}": (material, mesh) for material, mesh in buildings.items()}
    made["ground"] = (GROUND, ground_mesh(scene, terrain, margin_m))
    files = {f"meshes/{name}.ply": ply_bytes(mesh) for name, (_, mesh) in made.items()}
    record = scene_record(scene, terrain)
    record["meshes"] = {
        name: {"material": material, "points": len(mesh.points_m), "triangles": len(mesh.triangles)}
        for name, (material, mesh) in made.items()
    }
    files["scene.json"] = (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode()
    files["scene.xml"] = _xml({name: material for name, (material, _) in made.items()})
    _write_files(folder, files)
    return folder / "scene.xml"


def write_gltf(scene: Scene, path: Path, *, terrain: Terrain | None = None) -> Path:
    """Write a scene for viewers: one self-contained binary glTF 2.0 file (``.glb``).

    glTF is Y up with right-handed axes: (x, y, z) = (east, up, -north), in metres. The meshes are
    ``buildings-<material>``, ``ground`` and ``roads``; `scene_record` stands in the scene's extras
    and the credit in ``asset.copyright``.

    Args:
        scene: what to write.
        path: the file; its name must end in ``.glb``.
        terrain: the ground; flat at up = 0 if None. It must reach below all buildings.

    Returns:
        The path.

    Raises:
        SceneError: if a material is not known or the terrain is too small.
        DataError: if the name has another ending or the file cannot be written.
    """
    if path.suffix.lower() != ".glb":
        msg = f"{path} is to be a binary glTF file; give a name that ends in .glb"
        raise DataError(msg)
    buildings = building_meshes(scene, terrain)
    made = {f"buildings-{material}": (material, mesh) for material, mesh in buildings.items()}
    made["ground"] = (GROUND, ground_mesh(scene, terrain))
    made["roads"] = ("road", road_mesh(scene, terrain))
    made = {name: pair for name, pair in made.items() if len(pair[1].triangles)}
    _write_files(path.parent, {path.name: _glb(made, scene_record(scene, terrain))})
    return path


def scene_record(scene: Scene, terrain: Terrain | None = None) -> dict[str, Any]:
    """What an exported scene keeps of its origin: frame, heights' sources, hash, credit."""
    rules = np.array([rule.partition(":")[0] for rule in scene.height_rule])
    shares = {str(rule): round(float((rules == rule).mean()), 4) for rule in np.unique(rules)}
    record: dict[str, Any] = {
        "name": scene.name,
        "axes": "east, north, up [m]",
        "crs": scene.crs,
        "origin_m": list(scene.origin_m),
        "bounds_m": list(scene.bounds_m),
        "buildings": len(scene.footprints),
        "heights_from": shares,
        "terrain": None,
        "attribution": scene.attribution,
        "scene_sha256": scene_digest(scene, terrain),
    }
    if terrain is not None:
        record["terrain"] = {
            "source": terrain.source,
            "datum_m": terrain.datum_m,
            "spacing_m": terrain.grid.spacing_m,
        }
    return record


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


def _glb(made: dict[str, tuple[str, Surface]], record: dict[str, Any]) -> bytes:
    """Meshes as binary glTF; without normals in the file, viewers shade each triangle flat."""
    import trimesh
    from trimesh.exchange.gltf import export_glb
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import PBRMaterial

    world = trimesh.Scene(metadata=record | {"axes": "east, up, -north [m]"})
    for name, (material, mesh) in made.items():
        turned = np.column_stack([mesh.points_m[:, 0], mesh.points_m[:, 2], -mesh.points_m[:, 1]])
        colour = [*_COLOUR.get(material, _COLOUR[GROUND]), 255]
        shown = trimesh.Trimesh(turned, mesh.triangles, process=False)
        surface = PBRMaterial(material, baseColorFactor=colour, metallicFactor=0, roughnessFactor=1)
        shown.visual = TextureVisuals(material=surface)
        world.add_geometry(shown, node_name=name, geom_name=name)

    def sign(tree: dict[str, Any]) -> None:
        if record["attribution"]:
            tree["asset"]["copyright"] = record["attribution"]

    return export_glb(world, include_normals=False, tree_postprocessor=sign)


def _write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Write files beside the folder's own and move them in, in order: each is whole or absent."""
    partial = folder / f".export.{os.getpid()}.partial"
    try:
        try:
            for name, content in files.items():
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                (partial / name).write_bytes(content)
            for name in files:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (partial / name).replace(folder / name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        msg = f"cannot write {folder} ({error.strerror or error}); choose another folder"
        raise DataError(msg) from error
