"""Maps of a tile's radio cells by either engine, and what the map of the city shows of it."""

from dataclasses import replace
from typing import Literal

import numpy as np
import shapely
from jaxtyping import Bool, Float

from hertzmap.core.grid import Grid
from hertzmap.core.types import RadioMap, Scene, SceneRaster, Transmitter
from hertzmap.datasets.store import Layer
from hertzmap.propagation.dominant_path import DominantPath, Environment
from hertzmap.propagation.path_layers import layers_from_paths
from hertzmap.scenes.raster import rasterize
from hertzmap.scenes.roads import width_m

MapEngine = Literal["dominant-path", "sionna"]
"""``dominant-path`` is reproducible and fills every reachable cell."""
MATERIALS = ("none", "concrete", "brick", "glass", "wood", "metal")
"""Material of the walls by its number in the plane ``material``; concrete where the map is mute."""
PLANES = ("height", "material", "footprint", "road", "terrain")
"""What the map of the city shows, in this order."""
PLANE_UNITS = ("m", "1", "1", "1", "m")
"""Their units."""
HEIGHT_M = 1.5
"""Height of the receivers of maps above ground [m]."""


def filled_maps(
    engine: MapEngine,
    scene: Scene,
    site: SceneRaster,
    cells: tuple[Transmitter, ...],
    owner: list[int],
    ray_spacing_m: float,
    margin_m: float,
) -> tuple[RadioMap, Bool[np.ndarray, "cells rows cols"]]:
    """Maps of all radio cells, and where the dominant path filled what rays left dark.

    Args:
        engine: who computes them.
        scene: the tile with its margin.
        site: heights and outdoor mask of the tile.
        cells: radio cells.
        owner: site of each; radio cells of one site share its rays.
        ray_spacing_m: cells of the ray-traced grid [m], a multiple of the tile's.
        margin_m: of the scene around the tile [m].
    """
    environment = Environment.prepare(scene, site.grid, margin_m=margin_m)
    dominant = DominantPath(environment).trace(cells)
    if engine == "dominant-path":
        return dominant, np.zeros(dominant.valid.shape, bool)
    factor = round(ray_spacing_m / site.grid.spacing_m)
    rays = ray_traced(scene, site, cells, owner, factor)
    lit = rays.valid & site.free
    filled = dominant.valid & ~lit

    def merged(name: str) -> np.ndarray:
        return np.where(lit, getattr(rays, name), getattr(dominant, name))

    radio = replace(
        dominant,
        path_gain_db=merged("path_gain_db").astype(np.float32),
        toa_s=merged("toa_s"),
        los=merged("los"),
        valid=lit | dominant.valid,
        aoa_rad=None,
        aod_rad=None,
        interaction_loss_db=None,
    )
    return radio, filled


def ray_traced(
    scene: Scene,
    site: SceneRaster,
    cells: tuple[Transmitter, ...],
    owner: list[int],
    factor: int,
) -> RadioMap:
    """Maps by Sionna's paths to the outdoor centres of coarse cells, spread over the fine ones.

    Args:
        scene: the tile with its margin.
        site: of the fine grid.
        cells: radio cells.
        owner: site of each.
        factor: fine cells along a coarse one's side.
    """
    from hertzmap.propagation.ray_budget import RayBudget, SionnaConfig
    from hertzmap.propagation.sionna_rt import SionnaScene

    fine = site.grid
    coarse = Grid(fine.rows // factor, fine.cols // factor, fine.spacing_m * factor, fine.origin_m)
    outdoors = np.flatnonzero(rasterize(scene, coarse).free)
    places = coarse.centres_m().reshape(-1, 2)[outdoors]
    receivers = np.column_stack([places, np.full(len(outdoors), HEIGHT_M)])
    # rays as for maps by paths: many receivers, and no bends
    traced = SionnaScene.of(scene, SionnaConfig(channels=RayBudget(10_000, False)))
    maps: list[RadioMap] = []
    for number in sorted(set(owner)):
        mine = [cell for cell, whose in zip(cells, owner, strict=True) if whose == number]
        found = traced.channels((mine[0],), receivers)
        maps += [
            layers_from_paths(replace(found, transmitters=(c,)), coarse, outdoors) for c in mine
        ]

    def spread(name: str) -> np.ndarray:
        layer = np.concatenate([getattr(one, name) for one in maps])
        return layer.repeat(factor, axis=1).repeat(factor, axis=2)

    return RadioMap(
        fine,
        spread("path_gain_db"),
        spread("valid"),
        cells,
        toa_s=spread("toa_s"),
        los=spread("los"),
    )


def map_planes(scene: Scene, site: SceneRaster) -> dict[str, Layer]:
    """Arrays of the group ``osm``: height, material, footprint, road, terrain, and free cells."""
    planes = np.stack(
        [
            site.height_m,
            _materials(scene, site),
            ~site.free,
            _roads(scene, site.grid) & site.free,
            np.zeros(site.grid.shape),  # the ground is flat
        ]
    )
    south = {"row_order": "south_up"}
    return {
        "osm/map": Layer(
            planes.astype(np.float32),
            ("planes", "rows", "cols"),
            "see plane_units",
            "what the city map shows",
            chunk=1,
            attrs=south
            | {
                "planes": list(PLANES),
                "plane_units": list(PLANE_UNITS),
                "materials": list(MATERIALS),
            },
        ),
        "osm/free": Layer(site.free, ("rows", "cols"), "1", "outdoors", attrs=south),
    }


def _materials(scene: Scene, site: SceneRaster) -> Float[np.ndarray, "rows cols"]:
    """Number of the highest building's material; 0 outdoors."""
    if not scene.materials:
        return np.where(site.free, 0.0, float(MATERIALS.index("concrete")))
    tallest, out = np.zeros(site.grid.shape), np.zeros(site.grid.shape)
    for number, material in enumerate(MATERIALS[1:], start=1):
        kept = [k for k, one in enumerate(scene.materials) if (one or "concrete") == material]
        if not kept:
            continue
        part = replace(
            scene,
            footprints=tuple(scene.footprints[k] for k in kept),
            height_m=scene.height_m[kept],
            height_rule=tuple(scene.height_rule[k] for k in kept),
            source_id=tuple(scene.source_id[k] for k in kept),
            materials=(),
        )
        height = rasterize(part, site.grid).height_m
        out = np.where(height > tallest, float(number), out)
        tallest = np.maximum(tallest, height)
    return out


def _roads(scene: Scene, grid: Grid) -> Bool[np.ndarray, "rows cols"]:
    """Cells whose centre lies on a road."""
    if not scene.roads:
        return np.zeros(grid.shape, bool)
    widths = [width_m(one.kind) for one in scene.roads]
    lines = np.array([one.line for one in scene.roads], dtype=object)
    ground = shapely.union_all(shapely.buffer(lines, 0.5 * np.array(widths)))
    shapely.prepare(ground)
    east, north = np.moveaxis(grid.centres_m(), -1, 0)
    return np.asarray(shapely.contains_xy(ground, east, north))
