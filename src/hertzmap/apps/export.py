"""The job behind ``hertzmap export``: a scene as files of other programs."""

import json
from pathlib import Path
from typing import Any

from hertzmap.apps import jobs
from hertzmap.core.errors import ConfigError
from hertzmap.core.types import Scene
from hertzmap.datasets.terrain import read_dem
from hertzmap.scenes.export import write_gltf, write_mitsuba

FORMATS = ("mitsuba", "gltf")
"""What can be written."""


def export(scene: Scene, out: Path, *, kind: str, dem: Path | None) -> dict[str, Any]:
    """Write a scene as Mitsuba XML with PLY meshes, or as binary glTF, and say what was written.

    Args:
        scene: what to write.
        out: folder; ``mitsuba`` fills it, ``gltf`` writes ``<name>.glb`` into it.
        kind: one of `FORMATS`.
        dem: GeoTIFF of the bare ground's heights [m]; flat ground if None.

    Raises:
        ConfigError: if the format is not known.
        DataError: if the DEM cannot be used or the folder cannot be written.
    """
    if kind not in FORMATS:
        msg = f"{kind!r} is no export format; choose from {', '.join(FORMATS)}"
        raise ConfigError(msg)
    terrain = None if dem is None else read_dem(dem, scene)
    if kind == "mitsuba":
        path = write_mitsuba(scene, out, terrain=terrain)
        files = {"scene": path, "record": path.with_name("scene.json")}
        meshes = json.loads(files["record"].read_text(encoding="utf-8"))["meshes"]
        files |= {name: out / "meshes" / f"{name}.ply" for name in meshes}
    else:
        files = {"scene": write_gltf(scene, out / f"{scene.name}.glb", terrain=terrain)}
    summary = jobs.summarise_scene(scene) | {"format": kind, "terrain": None}
    if terrain is not None:
        relief = float(terrain.up_m.max() - terrain.up_m.min())
        summary["terrain"] = {
            "source": terrain.source,
            "datum_m": terrain.datum_m,
            "relief_m": round(relief, 1),
        }
    return summary | {"files": {name: str(path) for name, path in files.items()}}
