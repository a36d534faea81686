"""Materials of a ray-traced scene: their values, the error of maps by them, and their fit.

The paths of a scene do not depend on its materials, so the derivative of a map by a material goes
through the gains of paths alone. It is Sionna's own, by reverse differentiation of evaluated loops
(forward differentiation fails in them).
"""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from hertzmap.core.errors import PropagationError
from hertzmap.core.types import RadioMap, Transmitter
from hertzmap.propagation.antennas import gain_dbi
from hertzmap.propagation.sionna_rt import ISOTROPIC, SionnaScene, sionna

PERMITTIVITY = (1.01, 80.0)
"""Bounds of fitted relative permittivities."""
CONDUCTIVITY_S_M = (1e-4, 100.0)
"""Bounds of fitted conductivities [S/m]."""
PULL_DB = 0.01
"""Pull to the start, for each factor e that a value moves [dB]; decides what maps leave open."""


@final
@dataclass(frozen=True)
class Material:
    """Electric properties of a radio material."""

    relative_permittivity: float
    """Real part, at least 1."""
    conductivity_s_m: float
    """Conductivity [S/m], at least 0."""


@final
@dataclass(frozen=True)
class MapError:
    """How far traced maps are from given ones, and how that depends on materials."""

    mean_square_db2: float
    """Mean squared error over the cells that count [dB^2]."""
    slope: dict[str, tuple[float, float]]
    """Its derivative by each material's permittivity [dB^2] and conductivity [dB^2 / (S/m)]."""
    cells: int
    """Cells that count."""
    share: float
    """Their share of the valid cells of the given maps."""


@final
@dataclass(frozen=True)
class MaterialFit:
    """Materials that bring traced maps closest to given ones."""

    before: dict[str, Material]
    """Values at the start."""
    after: dict[str, Material]
    """Fitted values; the scene has them now."""
    rms_before_db: float
    """Error at the start [dB]."""
    rms_after_db: float
    """Error in the end [dB]."""
    share: float
    """Share of the valid cells of the given maps that counted: those with a path, the bright ones,
    so the fit says nothing of the rest."""
    evaluations: int
    """How often the maps were traced."""


def materials(scene: SionnaScene) -> dict[str, Material]:
    """Radio materials of a scene by name, at the carrier it was last traced at."""
    return {
        name: Material(float(one.relative_permittivity[0]), float(one.conductivity[0]))
        for name, one in scene.loaded.radio_materials.items()
    }


def set_materials(scene: SionnaScene, values: dict[str, Material]) -> None:
    """Give materials fixed values; they no longer follow the carrier.

    Raises:
        PropagationError: if the scene has no such material.
    """
    modules = sionna()  # opaque numbers are not compiled into kernels
    for name, value in values.items():
        material = _material(scene, name)
        material.frequency_update_callback = None
        material.relative_permittivity = modules.dr.opaque(
            modules.mi.Float, value.relative_permittivity
        )
        material.conductivity = modules.dr.opaque(modules.mi.Float, value.conductivity_s_m)


def map_error(scene: SionnaScene, truth: RadioMap, names: tuple[str, ...]) -> MapError:
    """Squared error of `SionnaScene.path_map` against given maps, and its derivatives.

    Args:
        scene: traced with its budget for path maps.
        truth: maps with their stations; cells that are not valid, or to which no path is found, do
            not count.
        names: materials, see `materials`; all objects of one material share it.

    Raises:
        PropagationError: if a name is no material, or no path reaches a valid cell. The place of a
            station is refused too: Sionna's derivative of a radio map by it is zero, silently.
    """
    chosen = [_material(scene, name) for name in names]
    total, cells, slopes = 0.0, 0, np.zeros(2 * len(chosen))
    for number, transmitter in enumerate(truth.transmitters):
        cell = np.flatnonzero(truth.valid[number])
        places = truth.grid.centres_m().reshape(-1, 2)[cell]
        places = np.column_stack([places, np.full(len(cell), scene.config.height_m)])
        target_db = truth.path_gain_db[number].reshape(-1)[cell]
        with scene.station(transmitter, ISOTROPIC):
            for run in scene.blocks(len(cell), scene.config.path_map):
                part = _error(scene, transmitter, places[run], target_db[run], chosen)
                total, cells, slopes = total + part[0], cells + part[1], slopes + part[2]
    if not cells:
        msg = "no path reaches a valid cell of the given maps; give other maps or more rays"
        raise PropagationError(msg)
    slope = (slopes / cells).tolist()
    return MapError(
        total / cells,
        {name: (slope[2 * k], slope[2 * k + 1]) for k, name in enumerate(names)},
        cells,
        cells / int(truth.valid.sum()),
    )


def calibrate_materials(
    scene: SionnaScene, truth: RadioMap, names: tuple[str, ...], *, rounds: int = 20
) -> MaterialFit:
    """Fit permittivity and conductivity of materials to maps, by their logarithms (L-BFGS-B).

    Hold out whole scenes, never cells. What the maps do not tell stays where it was. A slab's
    reflection rises and falls with its permittivity, so the error has several minima: the one next
    to the start is found.

    Args:
        scene: is left with the fitted materials.
        truth: maps with their stations, as in `map_error`.
        names: the materials to fit.
        rounds: most iterations.

    Raises:
        PropagationError: as `map_error`.
    """
    for name in names:
        _material(scene, name)
    scene.tune(truth.transmitters[0].carrier_hz)
    before = {name: materials(scene)[name] for name in names}
    start = np.log([[one.relative_permittivity, one.conductivity_s_m] for one in before.values()])
    bounds = np.log([PERMITTIVITY, CONDUCTIVITY_S_M] * len(names))

    first = np.clip(start.reshape(-1), *bounds.T)
    seen: list[MapError] = []

    def at(logarithms: np.ndarray) -> dict[str, Material]:
        pairs = np.exp(logarithms).reshape(-1, 2).tolist()
        return {name: Material(*pair) for name, pair in zip(names, pairs, strict=True)}

    def error(logarithms: np.ndarray) -> tuple[float, np.ndarray]:
        set_materials(scene, at(logarithms))
        seen.append(map_error(scene, truth, names))
        slope = np.array([seen[-1].slope[name] for name in names]).reshape(-1)
        away = logarithms - first
        pulled = seen[-1].mean_square_db2 + PULL_DB**2 * np.sum(away**2)
        return pulled, slope * np.exp(logarithms) + 2.0 * PULL_DB**2 * away

    found = minimize(
        error, first, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": rounds}
    )
    after = at(found.x)
    set_materials(scene, after)
    last = map_error(scene, truth, ())
    rms_db = [float(np.sqrt(one.mean_square_db2)) for one in (seen[0], last)]
    return MaterialFit(before, after, *rms_db, share=last.share, evaluations=len(seen) + 1)


def _error(
    scene: SionnaScene,
    transmitter: Transmitter,
    places_m: Float[np.ndarray, "places 3"],
    target_db: Float[np.ndarray, " places"],
    chosen: list[Any],
) -> tuple[float, int, Float[np.ndarray, " values"]]:
    """Sum of squared errors over places with a path, their number, derivatives of the sum."""
    modules = sionna()
    dr, mi = modules.dr, modules.mi
    values = [
        dr.opaque(mi.Float, float(number[0]))
        for one in chosen
        for number in (one.relative_permittivity, one.conductivity)
    ]
    solver, counter = modules.path_solver()
    solver.loop_mode = "evaluated"
    try:
        for number, one in enumerate(chosen):
            dr.enable_grad(values[2 * number], values[2 * number + 1])
            one.relative_permittivity = values[2 * number]
            one.conductivity = values[2 * number + 1]
        with scene.receivers(places_m):
            paths = scene.solve(solver, scene.config.path_map)
        if counter.candidates >= scene.config.max_paths:
            msg = (
                f"{counter.candidates} candidate paths reach the limit; raise "
                "SionnaConfig.max_paths or lower memory_mib"
            )
            raise PropagationError(msg)
        angles = (paths.phi_t.numpy(), paths.theta_t.numpy())
        pattern = 10.0 ** (gain_dbi(transmitter, *angles) / 10.0)
        pattern = np.where(paths.valid.numpy(), pattern, 0.0)[:, None, :, None, :]
        field = dr.square(paths.a[0]) + dr.square(paths.a[1])
        power = 0.5 * dr.sum(field * mi.TensorXf(pattern), axis=(1, 2, 3, 4)).array
        lit = np.flatnonzero(power.numpy()[: len(places_m)] > 0)
        if not len(lit):
            return 0.0, 0, np.zeros(len(values))
        gain = dr.log(dr.gather(mi.Float, power, mi.UInt(lit.astype(np.uint32))))
        total = dr.sum(dr.square(gain * (10.0 / np.log(10.0)) - mi.Float(target_db[lit])))
        if values:
            dr.backward(total)
        slopes = [float(dr.grad(value)[0]) for value in values]
        return float(total[0]), len(lit), np.array(slopes)
    finally:
        for one in chosen:  # not before `backward`: materials take part in it
            one.relative_permittivity = dr.detach(one.relative_permittivity)
            one.conductivity = dr.detach(one.conductivity)


def _material(scene: SionnaScene, name: str) -> Any:
    """Sionna's material of that name."""
    known = scene.loaded.radio_materials
    if name not in known:
        msg = (
            f"{name!r} is no material of the scene ({', '.join(known)}). By the place of a station "
            "there is no derivative: Sionna's is zero; search places with the dominant-path model"
        )
        raise PropagationError(msg)
    return known[name]
