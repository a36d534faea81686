"""What a ray tracer makes of an exported scene; needs the extra ``rt``."""

from importlib import import_module
from typing import Any

import numpy as np
import pytest
import shapely

from hertzmap.core.types import Scene
from hertzmap.scenes.export import write_mitsuba

try:
    rt: Any = import_module("sionna.rt")  # its types know no lists for places
except ImportError as error:
    pytest.skip(f"no ray tracer here: {error}", allow_module_level=True)


def exported(folder, *pairs):
    """Buildings (footprint, height) of metal, as the ray tracer loads them, without ground."""
    scene = Scene(
        tuple(footprint for footprint, _ in pairs),
        np.array([height for _, height in pairs], dtype=float),
        ("height",) * len(pairs),
        tuple(f"way/{k}" for k in range(len(pairs))),
        (-30.0, -30.0, 30.0, 30.0),
        materials=("metal",) * len(pairs),
    )
    found = rt.load_scene(str(write_mitsuba(scene, folder)), merge_shapes=False)
    assert set(found.objects) == {"buildings-metal", "ground"}
    assert found.objects["buildings-metal"].radio_material.name == "metal-rm"
    found.remove("ground")
    return found


def paths(scene, *, diffraction=False):
    """Delay [ns], gain [dB] of all paths of up to two interactions, by delay."""
    antenna = rt.PlanarArray(num_rows=1, num_cols=1, pattern="iso", polarization="V")
    scene.tx_array = scene.rx_array = antenna
    scene.frequency = 3.5e9
    scene.add(rt.Transmitter("tx", [-20.0, 3.0, 4.0]))
    scene.add(rt.Receiver("rx", [-14.0, -9.0, 1.5]))
    found = rt.PathSolver()(
        scene, max_depth=2, refraction=False, diffraction=diffraction, samples_per_src=100_000
    )
    real, imaginary = (np.asarray(part).reshape(-1) for part in found.a)
    delay_ns = 1e9 * np.asarray(found.tau).reshape(-1)
    there = np.asarray(found.valid).reshape(-1)
    gain_db = 20 * np.log10(np.hypot(real, imaginary)[there])
    order = np.argsort(delay_ns[there])
    return np.column_stack([delay_ns[there], gain_db])[order]


BOX = shapely.box(-5, -5, 5, 5)


def test_an_exported_box_reflects_as_the_shipped_one(tmp_path):
    ours = paths(exported(tmp_path, (BOX, 5.0)))
    theirs = paths(rt.load_scene(rt.scene.box))
    assert len(ours) == 2  # line of sight and the western wall
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_inner_walls_and_cut_roofs_add_no_edges(tmp_path):
    """A house in three pieces, one drawn across another, diffracts like the house drawn once."""
    whole = paths(exported(tmp_path / "1", (BOX, 5.0)), diffraction=True)
    assert len(whole) > 2
    pieces = [shapely.box(-5, -5, 1, 5), shapely.box(1, -5, 5, 2), shapely.box(-2, -1, 5, 5)]
    cut = paths(exported(tmp_path / "3", *((piece, 5.0) for piece in pieces)), diffraction=True)
    np.testing.assert_allclose(cut, whole, rtol=1e-3)
