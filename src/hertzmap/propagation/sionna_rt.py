"""Ray tracing by Sionna RT (extra ``rt``): channels, maps by paths, maps by rays.

The one file that imports sionna, mitsuba and drjit, and only inside functions. Every end is traced
with isotropic probes of both polarisations; antenna patterns are applied here, at the departure
angle of each path, so that maps and channels agree with the dominant-path engine's patterns.

What differs from Sionna's defaults, and why:

* rays do not pass walls (``refraction`` is off): thin walls would light the rooms;
* delays stay absolute and the carrier's phase is left out, see `Channels`;
* candidates are generated deterministically: the same call gives the same bytes, with diffraction
  too. One station is traced at a time, so no station depends on the others of a call;
* the table that recognises known paths is `KNOWN_PATHS` long: Sionna takes two paths that fall on
  one place of the table for one path; with its own length 1 % was lost in a block of 400 receivers;
* receivers come in blocks of a power of two, padded, so that few kernels are compiled, and no block
  comes near the limit of paths, beyond which Sionna drops paths without a word.

Source: Sionna RT, Hoydis et al. (arXiv 2303.11103, 2504.21719), version 2.2.
"""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, final

import numpy as np
import shapely
from jaxtyping import Bool, Complex, Float, Int, UInt8

from hertzmap.core.channels import (
    DIFFRACTED,
    REFLECTED,
    SCATTERED,
    TRANSMITTED,
    Channels,
)
from hertzmap.core.errors import MissingExtraError, PropagationError
from hertzmap.core.grid import Grid
from hertzmap.core.types import RadioMap, Scene, Terrain, Transmitter
from hertzmap.core.units import wavelength_m
from hertzmap.propagation.base import AbstractChannelBackend, AbstractMapBackend
from hertzmap.propagation.path_layers import layers_from_paths
from hertzmap.propagation.ray_budget import LEAST_HITS, RayBudget, SionnaConfig, expected_hits
from hertzmap.scenes.export import write_mitsuba
from hertzmap.scenes.raster import rasterize

logger = logging.getLogger(__name__)

KNOWN_PATHS = 16_777_213
"""Length of the table of known paths, a prime; 64 MiB for each of its two hashes."""
FULL = 0.8
"""A block that fills this share of the limit of paths is split."""
BAD_LLVM = (15, 16)
"""Major versions with which a solve ends the whole process on processors with AVX-512."""
LEAST_LLVM = 15
"""Older ones are refused by Dr.Jit."""


@final
@dataclass(frozen=True)
class _Paths:
    """Paths of one station to places, in the order of the places; fields as in `Channels`."""

    place: Int[np.ndarray, " paths"]
    gain: Complex[np.ndarray, "paths 2 2"]
    delay_s: Float[np.ndarray, " paths"]
    departure_rad: Float[np.ndarray, "paths 2"]
    arrival_rad: Float[np.ndarray, "paths 2"]
    kind: UInt8[np.ndarray, " paths"]
    depth: UInt8[np.ndarray, " paths"]


_PROBE = {"num_rows": 1, "num_cols": 1, "pattern": "iso", "polarization": "VH"}
ISOTROPIC = "iso"
_SAME_PATTERNS = {"isotropic": ISOTROPIC, "sector": "tr38901"}
_FIELDS = ("gain", "delay_s", "departure_rad", "arrival_rad", "kind", "depth")


@final
class SionnaScene(AbstractChannelBackend):
    """A scene in the tracer's memory. Not to be shared by threads."""

    def __init__(
        self, loaded: Any, config: SionnaConfig, scene: Scene | None, terrain: Terrain | None
    ) -> None:
        """Take over a scene that Sionna has loaded; use `of` or `load`."""
        self.config = config
        self.scene = scene
        self.terrain = terrain
        self.loaded = loaded
        self.loaded.rx_array = sionna().rt.PlanarArray(**_PROBE)

    @classmethod
    def of(
        cls, scene: Scene, config: SionnaConfig | None = None, *, terrain: Terrain | None = None
    ) -> "SionnaScene":
        """Export a scene with its ground to a temporary folder and load it.

        Args:
            scene: buildings with heights and materials.
            config: how paths are sought.
            terrain: the ground, which places are above; flat if None.

        Raises:
            MissingExtraError: if the extra ``rt`` or a fit LLVM is missing.
            SceneError: if a material is not known or the terrain is too small.
        """
        sionna()
        with tempfile.TemporaryDirectory(prefix="hertzmap-sionna-") as folder:
            loaded = _load(write_mitsuba(scene, Path(folder) / "scene", terrain=terrain))
        return cls(loaded, config or SionnaConfig(), scene, terrain)

    @classmethod
    def load(cls, path: Path | None, config: SionnaConfig | None = None) -> "SionnaScene":
        """Load any Mitsuba scene file; no file is free space. Nothing is known to be indoors.

        Args:
            path: a ``scene.xml`` with radio materials, or None.
            config: how paths are sought.

        Raises:
            MissingExtraError: if the extra ``rt`` or a fit LLVM is missing.
            PropagationError: if the file cannot be loaded.
        """
        return cls(_load(path), config or SionnaConfig(), None, None)

    def channels(
        self,
        transmitters: tuple[Transmitter, ...],
        ue_m: Float[np.ndarray, "snapshots 3"],
        velocity_m_s: Float[np.ndarray, "snapshots 3"] | None = None,
    ) -> Channels:
        """Paths of every UE snapshot to every station, by delay and then by power.

        A UE inside a building has no path. The same call gives the same bytes.

        Args:
            transmitters: the stations, each with its own carrier; patterns play no role.
            ue_m: (east, north, up) of each snapshot [m].
            velocity_m_s: (east, north, up) of each snapshot [m/s]; at rest by default.

        Raises:
            PropagationError: if a station is inside a building, its carrier is outside a
                material's range, or one UE alone has more paths than `SionnaConfig.max_paths`.
        """
        return self._channels(transmitters, ue_m, velocity_m_s, self.config.channels)

    def path_map(
        self,
        transmitters: tuple[Transmitter, ...],
        grid: Grid,
        free: Bool[np.ndarray, "{grid.rows} {grid.cols}"] | None = None,
    ) -> RadioMap:
        """Layers from the paths to a receiver at the centre of each outdoor cell.

        Nearly free of noise, with delays, line of sight and angles; some 2 ms of processor time per
        cell and station at 10,000 rays. Deep shadow stays dark: cells without a path are masked.

        Args:
            transmitters: the stations, with their patterns.
            grid: cells of the maps.
            free: outdoor cells; by default those of the scene.

        Raises:
            PropagationError: as `channels`.
        """
        cell = np.flatnonzero(self._free(grid, free))
        places = grid.centres_m().reshape(-1, 2)[cell]
        receivers = np.column_stack([places, np.full(len(cell), self.config.height_m)])
        found = self._channels(transmitters, receivers, None, self.config.path_map)
        return layers_from_paths(found, grid, cell)

    def radio_map(
        self,
        transmitters: tuple[Transmitter, ...],
        grid: Grid,
        free: Bool[np.ndarray, "{grid.rows} {grid.cols}"] | None = None,
    ) -> RadioMap:
        """Path gain by shooting rays and counting hits: quick, noisy, no other layer.

        The mean over a cell's area and both polarisations. Cells that no ray hits are masked. A
        warning is logged where the budget is too small for the cells, see `expected_hits`.

        Args:
            transmitters: the stations; isotropic or with the sector pattern, which is the same
                function in Sionna.
            grid: cells of the maps.
            free: outdoor cells; by default those of the scene.

        Raises:
            PropagationError: as `channels`, if a pattern needs the angles of paths, or on terrain.
        """
        if self.terrain is not None:
            msg = "radio_map takes a level plane, which runs below a terrain; use path_map"
            raise PropagationError(msg)
        outdoors = self._free(grid, free)
        gains = [self._shoot(one, grid, outdoors) for one in transmitters]
        power = np.stack([np.where(outdoors, one, 0.0) for one in gains]).astype(np.float64)
        valid = power > 0
        gain_db = 10.0 * np.log10(np.where(valid, power, np.nan))
        return RadioMap(grid, gain_db, valid, transmitters)

    def _channels(
        self,
        transmitters: tuple[Transmitter, ...],
        ue_m: Float[np.ndarray, "snapshots 3"],
        velocity_m_s: Float[np.ndarray, "snapshots 3"] | None,
        budget: RayBudget,
    ) -> Channels:
        still = np.zeros_like(ue_m) if velocity_m_s is None else velocity_m_s
        outdoors = np.flatnonzero(~self._indoors(ue_m))
        if len(outdoors) < len(ue_m):
            logger.info("%d of %d UEs are indoors", len(ue_m) - len(outdoors), len(ue_m))
        found = [self._trace(one, ue_m[outdoors], budget) for one in transmitters]
        stations = len(transmitters)
        snapshot = [outdoors[part.place] for part in found]
        link = np.concatenate([stations * who + s for s, who in enumerate(snapshot)])
        order = np.argsort(link, kind="stable")
        fields = {
            name: np.concatenate([getattr(part, name) for part in found])[order] for name in _FIELDS
        }
        wavelengths = np.array([wavelength_m(one.carrier_hz) for one in transmitters])
        comes = _direction(fields["arrival_rad"])
        owner, who = link[order] % stations, link[order] // stations
        doppler = np.einsum("pk,pk->p", comes, still[who]) / wavelengths[owner]
        counts = np.bincount(link, minlength=stations * len(ue_m))
        return Channels(
            transmitters=transmitters,
            offset=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            doppler_hz=doppler.astype(np.float32),
            **fields,
        )

    def _trace(
        self, transmitter: Transmitter, places_m: Float[np.ndarray, "places 3"], budget: RayBudget
    ) -> _Paths:
        """Paths of one station to places that are outdoors, block by block."""
        with self.station(transmitter, ISOTROPIC):
            parts = [
                part
                for run in self.blocks(len(places_m), budget)
                for part in self._block(places_m, run.start, run.stop, budget)
            ]
        parts = parts or [_none()]
        names = ("place", *_FIELDS)
        return _Paths(*(np.concatenate([getattr(part, n) for part in parts]) for n in names))

    def blocks(self, places: int, budget: RayBudget) -> list[slice]:
        """Runs of places that are traced at once."""
        block = self.config.block(budget.rays)
        return [slice(start, min(start + block, places)) for start in range(0, places, block)]

    @contextmanager
    def station(self, transmitter: Transmitter, pattern: str) -> Iterator[None]:
        """The tracer's scene with one station in it, at its carrier, if both are fit."""
        rt = sionna().rt
        self._check_station(transmitter)
        self.tune(transmitter.carrier_hz)
        self.loaded.tx_array = rt.PlanarArray(**{**_PROBE, "pattern": pattern})
        turn = [
            float(x) for x in (transmitter.yaw_rad, transmitter.pitch_rad, transmitter.roll_rad)
        ]
        turn = [0.0, 0.0, 0.0] if pattern == ISOTROPIC else turn
        place = _point(self._lifted(np.array([transmitter.place_m]))[0])
        self.loaded.add(rt.Transmitter("station", place, turn))
        try:
            yield
        finally:
            self.loaded.remove("station")

    @contextmanager
    def receivers(self, places_m: Float[np.ndarray, "places 3"]) -> Iterator[None]:
        """Receivers at all places, the last one repeated up to a power of two."""
        rt = sionna().rt
        length = 1 << (len(places_m) - 1).bit_length()
        padded = np.concatenate([places_m, np.repeat(places_m[-1:], length - len(places_m), 0)])
        padded = self._lifted(padded)
        names = [f"ue-{number}" for number in range(length)]
        for name, place in zip(names, padded, strict=True):
            self.loaded.add(rt.Receiver(name, _point(place)))
        try:
            yield
        finally:
            self.loaded.remove(names)

    def _block(
        self, places_m: Float[np.ndarray, "places 3"], first: int, last: int, budget: RayBudget
    ) -> list[_Paths]:
        """Paths to places ``first`` to ``last``; halves the block where it has too many."""
        paths, candidates = self._candidates(places_m[first:last], budget)
        if candidates < FULL * self.config.max_paths:
            return [_flat(paths, first, last - first)]
        if last - first == 1:
            msg = (
                f"one UE at {places_m[first].tolist()} has {candidates} candidate paths, the limit "
                f"is {self.config.max_paths}; raise max_paths, or lower depth or rays"
            )
            raise PropagationError(msg)
        middle = (first + last) // 2
        logger.info("%d candidates for %d UEs: block is split", candidates, last - first)
        return [
            *self._block(places_m, first, middle, budget),
            *self._block(places_m, middle, last, budget),
        ]

    def _candidates(
        self, places_m: Float[np.ndarray, "places 3"], budget: RayBudget
    ) -> tuple[Any, int]:
        """Sionna's paths to all places and some copies of the last, and the candidates' number."""
        solver, counter = sionna().path_solver()
        with self.receivers(places_m):
            return self.solve(solver, budget), counter.candidates

    def solve(self, solver: Any, budget: RayBudget) -> Any:
        """Sionna's paths between the station and the receivers that are in the scene."""
        return solver(
            self.loaded,
            max_depth=self.config.depth,
            max_num_paths_per_src=self.config.max_paths,
            samples_per_src=budget.rays,
            refraction=self.config.refraction,
            diffraction=budget.diffraction,
            seed=self.config.seed,
        )

    def _shoot(
        self, transmitter: Transmitter, grid: Grid, free: Bool[np.ndarray, "rows cols"]
    ) -> Float[np.ndarray, "rows cols"]:
        """Path gain of one station as a power ratio; 0 where no ray came."""
        pattern = _SAME_PATTERNS.get(transmitter.pattern.kind)
        if pattern is None:
            msg = (
                f"radio_map knows no directions, and the pattern {transmitter.pattern.kind!r} of "
                f"transmitter {transmitter.name!r} is not one of Sionna's; use path_map"
            )
            raise PropagationError(msg)
        rays, height_m = self.config.radio_map.rays, self.config.height_m
        hits = (
            np.median(expected_hits(transmitter, grid, rays, height_m)[free]) if free.any() else 0
        )
        logger.info("%.2g rays per cell (median) straight from the station", hits)
        if hits < LEAST_HITS:
            logger.warning(
                "only %.2g of %d rays cross a cell of %g m straight (median): take %.0e rays or "
                "a coarser grid, or path_map",
                *(hits, rays, grid.spacing_m, rays * LEAST_HITS / max(hits, 1e-9)),
            )
        modules = sionna()
        mi = modules.mi
        west, south, east, north = grid.bounds_m
        circular = (
            mi.TensorXf(np.array([[0.5**0.5, 0.0]])),
            mi.TensorXf(np.array([[0.0, 0.5**0.5]])),
        )
        with self.station(transmitter, pattern):
            found = modules.rt.RadioMapSolver()(
                self.loaded,
                center=mi.Point3f(0.5 * (west + east), 0.5 * (south + north), height_m),
                orientation=mi.Point3f(0.0, 0.0, 0.0),
                size=mi.Point2f(
                    *((count - 0.5) * grid.spacing_m for count in (grid.cols, grid.rows))
                ),
                cell_size=mi.Point2f(grid.spacing_m, grid.spacing_m),
                precoding_vec=circular,
                samples_per_tx=rays,
                max_depth=self.config.depth,
                refraction=self.config.refraction,
                diffraction=self.config.radio_map.diffraction,
                seed=self.config.seed,
            )
        return found.path_gain.numpy()[0]

    def _free(self, grid: Grid, free: np.ndarray | None) -> Bool[np.ndarray, "rows cols"]:
        """Outdoor cells: those given, or those of the scene."""
        if free is not None:
            return free
        if self.scene is None:
            return np.ones(grid.shape, dtype=bool)
        return rasterize(self.scene, grid).free

    def _lifted(self, places_m: Float[np.ndarray, "places 3"]) -> Float[np.ndarray, "places 3"]:
        """Places above the ground in the tracer's frame, in which the ground may rise."""
        lifted = places_m.astype(np.float64)
        if self.terrain is not None:
            lifted[:, 2] += self.terrain.up_at(lifted[:, :2])
        return lifted

    def _indoors(self, places_m: Float[np.ndarray, "places 3"]) -> Bool[np.ndarray, " places"]:
        """Whether each place is inside a building, below its roof."""
        inside = np.zeros(len(places_m), dtype=bool)
        if self.scene is None or not len(self.scene.footprints):
            return inside
        tree = shapely.STRtree(self.scene.footprints)
        place, building = tree.query(shapely.points(places_m[:, :2]), predicate="intersects")
        below = places_m[place, 2] <= self.scene.height_m[building]
        inside[place[below]] = True
        return inside

    def _check_station(self, transmitter: Transmitter) -> None:
        place_m = np.array([transmitter.place_m])
        if self._indoors(place_m)[0]:
            msg = (
                f"transmitter {transmitter.name!r} at {transmitter.place_m} is inside a building; "
                "move it outdoors or above the roof"
            )
            raise PropagationError(msg)

    def tune(self, carrier_hz: float) -> None:
        """Set the carrier, and with it the materials that follow it.

        Raises:
            PropagationError: if the carrier is outside the range of one of the scene's materials.
        """
        ranges = sionna().itu
        for name, material in self.loaded.radio_materials.items():
            kind = getattr(material, "itu_type", None)
            fixed = getattr(material, "frequency_update_callback", None) is None
            if (
                kind is None
                or fixed
                or any(low <= carrier_hz / 1e9 <= high for low, high in ranges[kind])
            ):
                continue
            spans = " or ".join(f"{low:g} to {high:g} GHz" for low, high in ranges[kind])
            msg = (
                f"material {name!r} ({kind}) is defined for {spans}, not for "
                f"{carrier_hz / 1e9:g} GHz; choose another carrier or material"
            )
            raise PropagationError(msg)
        if float(self.loaded.frequency[0]) != np.float32(carrier_hz):
            modules = sionna()  # an opaque number is not compiled into kernels
            self.loaded.frequency = modules.dr.opaque(modules.mi.Float, carrier_hz)


@final
class SionnaMaps(AbstractMapBackend):
    """`SionnaScene.path_map` on one grid, for what takes any map backend."""

    def __init__(self, scene: SionnaScene, grid: Grid) -> None:
        """Maps of a scene on a grid."""
        self.scene = scene
        self.grid = grid

    def trace(self, transmitters: tuple[Transmitter, ...], *, workers: int = 1) -> RadioMap:
        """One map per transmitter, one after the other; the tracer has threads of its own."""
        del workers
        return self.scene.path_map(transmitters, self.grid)


def check_llvm(version: tuple[int, ...]) -> None:
    """Refuse versions of LLVM that would end the whole process at the first solve.

    Args:
        version: (major, minor, patch).

    Raises:
        MissingExtraError: if the version is not fit, with the remedy.
    """
    if version[0] in BAD_LLVM or version[0] < LEAST_LLVM:
        found = ".".join(map(str, version)) if version[0] > 0 else "none"
        msg = (
            f"Sionna RT needs LLVM 17 or newer, found {found}; with 15 and 16 a solve ends the "
            f"whole process. {_LLVM_REMEDY}"
        )
        raise MissingExtraError(msg)


_LLVM_REMEDY = (
    "Install libllvm19 (apt-get install libllvm19), or set DRJIT_LIBLLVM_PATH to the file "
    "libLLVM-19.so before Python starts"
)


@lru_cache(maxsize=1)
def sionna() -> SimpleNamespace:
    """Sionna's modules, imported at the first call.

    Raises:
        MissingExtraError: if the extra ``rt`` or a fit LLVM is missing, with the remedy.
    """
    try:
        drjit: Any = import_module("drjit")
        mitsuba: Any = import_module("mitsuba")
    except ImportError as error:
        msg = (
            f"ray tracing needs the extra rt ({error}): pip install 'hertzmap[rt]'. "
            f"On a CPU it needs LLVM too. {_LLVM_REMEDY}"
        )
        raise MissingExtraError(msg) from error
    try:
        rt: Any = import_module("sionna.rt")
        candidates: Any = import_module("sionna.rt.path_solvers.sb_candidate_generator")
        generator: Any = import_module("sionna.rt.path_solvers.sb_deterministic")
        itu: Any = import_module("sionna.rt.radio_materials.itu")
    except ModuleNotFoundError as error:
        msg = f"ray tracing needs the extra rt ({error}): pip install 'hertzmap[rt]'"
        raise MissingExtraError(msg) from error
    except ImportError as error:
        msg = f"Sionna RT cannot start ({error}). {_LLVM_REMEDY}"
        raise MissingExtraError(msg) from error
    if (mitsuba.variant() or "").startswith("llvm"):
        check_llvm(tuple(drjit.detail.llvm_version()))
    candidates.SBCandidateGenerator.MIN_SPEC_COUNT_SIZE = KNOWN_PATHS

    class Counting(generator.SBDeterministicCandidateGenerator):
        """Keeps the number of candidates, of which Sionna drops what exceeds its limit."""

        candidates = 0

        def __call__(self, **arguments: Any) -> Any:
            buffer = super().__call__(**arguments)
            buffer.schedule()
            drjit.eval()
            self.candidates = int(buffer.paths_counter[0])
            return buffer

    def path_solver() -> tuple[Any, Counting]:
        solver, counter = rt.PathSolver(deterministic=True), Counting()
        solver._candidate_generator = counter
        return solver, counter

    return SimpleNamespace(
        rt=rt,
        mi=mitsuba,
        dr=drjit,
        itu=itu.ITU_MATERIALS_PROPERTIES,
        path_solver=path_solver,
    )


def _load(path: Path | None) -> Any:
    """Sionna's scene of a file, meshes of one material merged; of None, free space."""
    modules = sionna()
    try:
        return modules.rt.load_scene(None if path is None else str(path), merge_shapes=True)
    except (OSError, RuntimeError, ValueError) as error:
        msg = f"Sionna cannot load {path}: {error}"
        raise PropagationError(msg) from error


def _point(place_m: Float[np.ndarray, " 3"]) -> Any:
    """A place whose numbers are data: as constants they would be compiled into new kernels."""
    modules = sionna()
    return modules.mi.Point3f(*(modules.dr.opaque(modules.mi.Float, x) for x in place_m.tolist()))


def _flat(paths: Any, first: int, count: int) -> _Paths:
    """The valid paths of the first `count` receivers, by receiver, delay and power."""
    place, path = np.nonzero(paths.valid.numpy()[:count, 0])
    gain = (paths.a[0].numpy() + 1j * paths.a[1].numpy())[place, :, 0, :, path]
    delay_s = paths.tau.numpy()[place, 0, path].astype(np.float64)
    power = (np.abs(gain) ** 2).sum(axis=(1, 2))
    order = np.lexsort((-power, delay_s, place))
    place, path = place[order], path[order]
    met = paths.interactions.numpy()[:, place, 0, path]
    types = sionna().rt.InteractionType
    bits = {
        types.SPECULAR: REFLECTED,
        types.DIFFUSE: SCATTERED,
        types.REFRACTION: TRANSMITTED,
        types.DIFFRACTION: DIFFRACTED,
    }
    kind = np.zeros(len(place), dtype=np.uint8)
    for theirs, ours in bits.items():
        kind |= np.where((met == theirs).any(axis=0), ours, 0).astype(np.uint8)

    def angles(azimuth: Any, zenith: Any) -> np.ndarray:
        return np.stack([azimuth.numpy()[place, 0, path], zenith.numpy()[place, 0, path]], axis=1)

    return _Paths(
        place + first,
        gain[order].astype(np.complex64),
        delay_s[order],
        angles(paths.phi_t, paths.theta_t),
        angles(paths.phi_r, paths.theta_r),
        kind,
        (met != types.NONE).sum(axis=0).astype(np.uint8),
    )


def _none() -> _Paths:
    """No paths."""
    angles = np.empty((0, 2), np.float32)
    return _Paths(
        np.empty(0, np.int64),
        np.empty((0, 2, 2), np.complex64),
        np.empty(0),
        angles,
        angles,
        np.empty(0, np.uint8),
        np.empty(0, np.uint8),
    )


def _direction(angle_rad: Float[np.ndarray, "paths 2"]) -> Float[np.ndarray, "paths 3"]:
    """Unit vectors of (azimuth, zenith) [rad]."""
    azimuth, zenith = angle_rad.astype(np.float64).T
    sine = np.sin(zenith)
    return np.stack([sine * np.cos(azimuth), sine * np.sin(azimuth), np.cos(zenith)], axis=1)
