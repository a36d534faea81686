"""Ray tracing by Sionna RT (extra ``rt``): channels, maps by paths, maps by rays, materials.

The one file that imports sionna, mitsuba and drjit, and only inside functions. Every end is traced
with isotropic probes of both polarisations; antenna patterns are applied here, at the departure
angle of each path, so that maps and channels agree with the dominant-path engine's patterns.

What differs from Sionna's defaults, and why:

* rays do not pass walls (``refraction`` is off): thin walls would light the rooms;
* delays stay absolute and the carrier's phase is left out, see `Channels`;
* candidates are generated deterministically: the same call gives the same bytes, with diffraction
  too. One station is traced at a time, so no station depends on the others of a call;
* the table that recognises known paths is `KNOWN_PATHS` long: Sionna takes two paths that fall on
  one place of the table for one path, and with its own length a block of 1,600 receivers lost 8 %;
* receivers come in blocks of a power of two, padded, so that few kernels are compiled, and no block
  comes near the limit of paths, beyond which Sionna drops paths without a word.

Source: Sionna RT, Hoydis et al. (arXiv 2303.11103, 2504.21719), version 2.2.
"""

import logging
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, final

import numpy as np
import shapely
from jaxtyping import Bool, Complex, Float, Int, UInt8
from pydantic import ConfigDict

from hertzmap.core.channels import (
    DIFFRACTED,
    REFLECTED,
    SCATTERED,
    TRANSMITTED,
    Channels,
)
from hertzmap.core.errors import ConfigError, MissingExtraError, PropagationError
from hertzmap.core.types import Scene, Transmitter
from hertzmap.core.units import wavelength_m
from hertzmap.propagation.channel_base import AbstractChannelBackend
from hertzmap.scenes.export import write_mitsuba

logger = logging.getLogger(__name__)

KNOWN_PATHS = 16_777_213
"""Length of the table of known paths, a prime; 64 MiB for each of its two hashes."""
FULL = 0.8
"""A block that fills this share of the limit of paths is split."""
LANE_BYTES = 56
"""Memory of the tracer for each ray, depth and receiver, measured [bytes]."""
BAD_LLVM = (15, 16)
"""Major versions with which a solve ends the whole process on processors with AVX-512."""
LEAST_LLVM = 15
"""Older ones are refused by Dr.Jit."""


@final
@dataclass(frozen=True)
class RayBudget:
    """Rays of one kind of result."""

    rays: int
    """Rays that leave each station."""
    diffraction: bool
    """Whether paths may bend at one edge."""


@final
@dataclass(frozen=True)
class SionnaConfig:
    """How paths are sought."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    depth: int = 3
    """Most interactions of a path."""
    refraction: bool = False
    """Whether rays pass walls; on, they light rooms whose walls are one thin sheet."""
    channels: RayBudget = RayBudget(100_000, True)
    """For `SionnaScene.channels`; without diffraction only half as many links have a path."""
    path_map: RayBudget = RayBudget(10_000, False)
    """For `SionnaScene.path_map`."""
    radio_map: RayBudget = RayBudget(10_000_000, False)
    """For `SionnaScene.radio_map`."""
    height_m: float = 1.5
    """Height of the receivers of maps above ground [m]."""
    max_paths: int = 100_000
    """Room for candidate paths of a station and a block of receivers, allocated in advance."""
    memory_mib: int = 640
    """Bound of the tracer's working memory, which sets the length of blocks [MiB]."""
    seed: int = 0
    """Of the draws that pick edges; at least 0."""

    def __post_init__(self) -> None:
        budgets = (self.channels, self.path_map, self.radio_map)
        if (
            self.depth < 0
            or min(one.rays for one in budgets) < 1
            or min(self.max_paths, self.memory_mib) < 1
            or self.seed < 0
            or self.height_m <= 0
        ):
            msg = (
                "SionnaConfig needs depth and seed of at least 0, rays, max_paths and memory_mib "
                f"of at least 1 and height_m above 0, got {self}"
            )
            raise ConfigError(msg)

    def block(self, rays: int) -> int:
        """Receivers traced at once within the memory bound: a power of two."""
        lanes = max(self.depth, 1) * rays
        most = self.memory_mib * 2**20 // (lanes * LANE_BYTES)
        return 1 << max(int(most).bit_length() - 1, 0)


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


_FIELDS = ("gain", "delay_s", "departure_rad", "arrival_rad", "kind", "depth")


@final
class SionnaScene(AbstractChannelBackend):
    """A scene in the tracer's memory. Not to be shared by threads."""

    def __init__(self, loaded: Any, config: SionnaConfig, scene: Scene | None) -> None:
        """Take over a scene that Sionna has loaded; use `of` or `load`."""
        modules = sionna()
        self.config = config
        self.scene = scene
        self._loaded = loaded
        probe = {"num_rows": 1, "num_cols": 1, "pattern": "iso", "polarization": "VH"}
        self._loaded.tx_array = modules.rt.PlanarArray(**probe)
        self._loaded.rx_array = modules.rt.PlanarArray(**probe)

    @classmethod
    def of(cls, scene: Scene, config: SionnaConfig | None = None) -> "SionnaScene":
        """Export a scene with its ground to a temporary folder and load it.

        Args:
            scene: buildings with heights and materials; flat ground is added.
            config: how paths are sought.

        Raises:
            MissingExtraError: if the extra ``rt`` or a fit LLVM is missing.
            SceneError: if a material is not known.
        """
        sionna()
        with tempfile.TemporaryDirectory(prefix="hertzmap-sionna-") as folder:
            loaded = _load(write_mitsuba(scene, Path(folder) / "scene"))
        return cls(loaded, config or SionnaConfig(), scene)

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
        return cls(_load(path), config or SionnaConfig(), None)

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
        still = np.zeros_like(ue_m) if velocity_m_s is None else velocity_m_s
        outdoors = np.flatnonzero(~self._indoors(ue_m))
        if len(outdoors) < len(ue_m):
            logger.info("%d of %d UEs are indoors", len(ue_m) - len(outdoors), len(ue_m))
        found = [self._trace(one, ue_m[outdoors], self.config.channels) for one in transmitters]
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
        self._check_station(transmitter)
        self._check_carrier(transmitter.carrier_hz)
        if not np.isclose(float(self._loaded.frequency[0]), transmitter.carrier_hz, rtol=1e-7):
            self._loaded.frequency = transmitter.carrier_hz
        rt = sionna().rt
        station = rt.Transmitter("station", [float(x) for x in transmitter.place_m])
        self._loaded.add(station)
        try:
            block = self.config.block(budget.rays)
            starts = range(0, len(places_m), block)
            parts = [
                part
                for start in starts
                for part in self._block(places_m, start, min(start + block, len(places_m)), budget)
            ]
        finally:
            self._loaded.remove("station")
        if not parts:
            parts = [_none()]
        names = ("place", *_FIELDS)
        return _Paths(*(np.concatenate([getattr(part, n) for part in parts]) for n in names))

    def _block(
        self, places_m: Float[np.ndarray, "places 3"], first: int, last: int, budget: RayBudget
    ) -> list[_Paths]:
        """Paths to places ``first`` to ``last``; halves the block where it has too many."""
        paths, candidates = self._solve(places_m[first:last], budget)
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

    def _solve(self, places_m: Float[np.ndarray, "places 3"], budget: RayBudget) -> tuple[Any, int]:
        """Sionna's paths to all places, the last one repeated up to a power of two."""
        modules = sionna()
        length = 1 << (len(places_m) - 1).bit_length()
        padded = np.concatenate([places_m, np.repeat(places_m[-1:], length - len(places_m), 0)])
        names = [f"ue-{number}" for number in range(length)]
        for name, place in zip(names, padded.tolist(), strict=True):
            self._loaded.add(modules.rt.Receiver(name, place))
        try:
            solver = modules.rt.PathSolver(deterministic=True)
            counter = modules.counting(solver)
            paths = solver(
                self._loaded,
                max_depth=self.config.depth,
                max_num_paths_per_src=self.config.max_paths,
                samples_per_src=budget.rays,
                refraction=self.config.refraction,
                diffraction=budget.diffraction,
                seed=self.config.seed,
            )
        finally:
            for name in names:
                self._loaded.remove(name)
        return paths, counter.candidates

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

    def _check_carrier(self, carrier_hz: float) -> None:
        """Refuse a carrier outside the range of one of the scene's ITU materials."""
        ranges = sionna().itu
        for name, material in self._loaded.radio_materials.items():
            kind = getattr(material, "itu_type", None)
            if kind is None or any(low <= carrier_hz / 1e9 <= high for low, high in ranges[kind]):
                continue
            spans = " or ".join(f"{low:g} to {high:g} GHz" for low, high in ranges[kind])
            msg = (
                f"material {name!r} ({kind}) is defined for {spans}, not for "
                f"{carrier_hz / 1e9:g} GHz; choose another carrier or material"
            )
            raise PropagationError(msg)


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
        import drjit
        import mitsuba
    except ImportError as error:
        msg = (
            f"ray tracing needs the extra rt ({error}): pip install 'hertzmap[rt]'. "
            f"On a CPU it needs LLVM too. {_LLVM_REMEDY}"
        )
        raise MissingExtraError(msg) from error
    try:
        import sionna.rt as rt
        from sionna.rt.path_solvers.sb_candidate_generator import SBCandidateGenerator
        from sionna.rt.path_solvers.sb_deterministic import SBDeterministicCandidateGenerator
        from sionna.rt.radio_materials.itu import ITU_MATERIALS_PROPERTIES
    except ModuleNotFoundError as error:
        msg = f"ray tracing needs the extra rt ({error}): pip install 'hertzmap[rt]'"
        raise MissingExtraError(msg) from error
    except ImportError as error:
        msg = f"Sionna RT cannot start ({error}). {_LLVM_REMEDY}"
        raise MissingExtraError(msg) from error
    if (mitsuba.variant() or "").startswith("llvm"):
        check_llvm(tuple(drjit.detail.llvm_version()))
    SBCandidateGenerator.MIN_SPEC_COUNT_SIZE = KNOWN_PATHS

    class Counting(SBDeterministicCandidateGenerator):
        """Keeps the number of candidates, of which Sionna drops what exceeds its limit."""

        candidates = 0

        def __call__(self, **arguments: Any) -> Any:
            buffer = super().__call__(**arguments)
            buffer.schedule()
            drjit.eval()
            self.candidates = int(buffer.paths_counter[0])
            return buffer

    def counting(solver: Any) -> Counting:
        solver._candidate_generator = Counting()
        return solver._candidate_generator

    return SimpleNamespace(
        rt=rt, mi=mitsuba, dr=drjit, itu=ITU_MATERIALS_PROPERTIES, counting=counting
    )


def _load(path: Path | None) -> Any:
    """Sionna's scene of a file, meshes of one material merged; of None, free space."""
    modules = sionna()
    try:
        return modules.rt.load_scene(None if path is None else str(path), merge_shapes=True)
    except (OSError, RuntimeError, ValueError) as error:
        msg = f"Sionna cannot load {path}: {error}"
        raise PropagationError(msg) from error


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
