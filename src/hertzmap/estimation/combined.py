"""Three kinds of model, weighed by how they fill gaps in the reports.

(1) The diffusion prior's conditional means given supposed transmitters, with their global unknowns.
(2) Maps of the dominant-path engine from supposed transmitters, its numbers integrated out.
(3) Kriging about path loss from supposed sites, which neither simulator nor network taught.
Each is a family of Gaussian processes; families share weight by stacking (`_stacking`), and the
answer is their weighted median (`_families.agreed`). Where reports name their devices, offsets of
those are taken out first (`_devices`), and noise that reports state wrong is mended (`_noise`).
Nothing but the reports decides.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import final

import numpy as np
from jaxtyping import Bool, Int
from threadpoolctl import threadpool_limits

from hertzmap.core.errors import ConfigError, ReportsError
from hertzmap.core.grid import Grid
from hertzmap.core.posteriors import MapPosterior, PositionPosterior
from hertzmap.core.types import Reports, SceneRaster
from hertzmap.core.units import GreyScale
from hertzmap.diffusion.denoisers import MapUNet
from hertzmap.estimation._devices import without_offsets
from hertzmap.estimation._engine_search import EngineSearch, SearchConfig
from hertzmap.estimation._families import Conditioning, agreed
from hertzmap.estimation._noise import with_fitted_noise
from hertzmap.estimation._path_loss import PathLossConfig
from hertzmap.estimation._rasters import pad_site
from hertzmap.estimation._stacking import THREADS, Family
from hertzmap.estimation._transmitter_search import PlaceConfig, TermPrior, TransmitterSearch
from hertzmap.estimation.base import AbstractEstimator
from hertzmap.measurement.operator import DriftOperator


@final
@dataclass(frozen=True)
class CombinedConfig:
    """Settings."""

    prior: bool = True
    """Whether the diffusion prior's conditional means take part."""
    engine: bool = True
    """Whether the dominant-path engine takes part."""
    path_loss: bool = True
    """Whether Kriging about path loss takes part."""
    places: PlaceConfig = PlaceConfig()
    """Supposed transmitters of the prior; the engine starts from them too."""
    search: SearchConfig = SearchConfig()
    """How the engine's transmitters are sought."""
    engines: int = 24
    """Supposed transmitters of the engine that share its weight."""
    sites: int = 8
    """Supposed sites of the path loss."""
    model_std: float = 0.06
    """Error of the conditional mean in the search for places [grey]."""
    temperature: float = 3.0
    """Tempering of that search, for errors that neighbouring reports share."""
    offset_std_db: float = 25.0
    """Standard deviation of an unknown link budget [dB]."""
    offset_reference_dbm: float = 5.0
    """Prior mean of an unknown EIRP per resource element [dBm]: a small cell."""
    spread_scale: float = 0.62
    """Usual factor on the stated spread where noise drowns the field, set on the validation cities
    at the default cell; it is 1 where reports are exact (`_stacking.GapErrors.drowned`), and each
    map's own left-out reports correct it (`spread_factor`)."""

    def __post_init__(self) -> None:
        if not (self.prior or self.path_loss):
            msg = "CombinedConfig needs prior or path_loss: the engine starts from their places"
            raise ConfigError(msg)
        if min(self.engines, self.sites) < 1:
            msg = f"engines and sites must be at least 1, got {self.engines} and {self.sites}"
            raise ConfigError(msg)


PRIOR_DEVIATION_DB = 5.0
"""Prior median of how far the field lies from a conditional mean with its unknowns fitted [dB]."""
START_SITES = 4
"""Sites of the path loss from which the engine starts too."""

PRESETS: dict[str, CombinedConfig] = {
    "default": CombinedConfig(),
    "without_network": CombinedConfig(prior=False),
    "without_engine": CombinedConfig(engine=False),
}
"""Named settings."""


@final
@dataclass(frozen=True)
class Combined(AbstractEstimator):
    """Weigh prior, engine and path loss by the reports alone.

    Cost on two cores: 13 s a 256 x 256 map with 1,900 reports, up to twice that where a second
    transmitter is tried. Use Kriging about path loss where reports are dense and measured,
    `amortised_unet` where milliseconds count, and tuned Kriging where the building mask is missing.
    """

    config: CombinedConfig = field(default_factory=CombinedConfig)
    """Settings."""
    network: MapUNet | None = None
    """The prior's denoiser; passed in by `training.checkpoint.load_estimator`."""
    term_prior: TermPrior | None = None
    """Belief about the global unknowns; passed in with the network."""
    scale: GreyScale = field(default_factory=GreyScale)
    """The grey scale the prior was trained on."""

    @classmethod
    def from_preset(cls, preset: str) -> "Combined":
        """See the base class; the network still has to be passed in."""
        if preset not in PRESETS:
            msg = f"combined has no preset {preset!r}; it has: {', '.join(PRESETS)}"
            raise ConfigError(msg)
        return cls(PRESETS[preset])

    def estimate(self, reports: Reports, site: SceneRaster, *, seed: int) -> MapPosterior:
        """See the base class; at least three reports on free ground are needed."""
        grid, free = pad_site(site)
        operator = DriftOperator.build(grid, free, reports.reported_m, reports.drift_cov_m2, q=1)
        if operator.count < 3:
            msg = (
                f"only {operator.count} of {len(reports)} reports lie on free ground of the map; "
                "3 are needed: check the reports' frame and the map's extent"
            )
            raise ReportsError(msg)
        with threadpool_limits(1, user_api="blas"):  # the work is split above it
            return self._weighed(reports, site, grid, free, operator, seed)

    def _weighed(
        self,
        reports: Reports,
        site: SceneRaster,
        grid: Grid,
        free: Bool[np.ndarray, "rows cols"],
        operator: DriftOperator,
        seed: int,
    ) -> MapPosterior:
        config = self.config
        generator = np.random.default_rng(seed)
        reports, level_db = without_offsets(reports, operator, generator)
        stated_db = reports.noise_db
        reports = with_fitted_noise(reports, operator, generator)
        understated = bool((reports.noise_db > stated_db).any())
        about = Conditioning(operator, reports)
        reference = reports.reference_dbm
        known = reference is not None
        reference = reference if reference is not None else config.offset_reference_dbm
        gain_db = reports.power_dbm[operator.kept] - reference
        noise_db = np.maximum(reports.noise_db[operator.kept], 0.5)
        level_std_db = 0.0 if known else config.offset_std_db
        trend = PathLossConfig(most_sites=config.sites)
        asked: list[Callable[[], Family]] = []
        if config.prior:
            search = self._places(gain_db, noise_db, level_std_db, seed)
            few = about.few(generator)
            asked.append(partial(self._prior, search, about, few, free, reference))
        if config.path_loss:
            few = about.few(generator, trend.most_reports)
            asked.append(partial(about.path_loss, free, few, trend))
        with ThreadPoolExecutor(THREADS) as pool:
            families = list(pool.map(lambda ask: ask(), asked))
        most = [config.places.most] * config.prior + [START_SITES] * config.path_loss
        start_m = [
            one.place_m[:count]
            for one, count in zip(families, most, strict=True)
            if one.place_m is not None
        ]
        places: tuple[PositionPosterior, ...] = ()
        if config.engine:
            padded = SceneRaster(grid, np.zeros(grid.shape), free)
            padded.height_m[: site.grid.rows, : site.grid.cols] = site.height_m
            engine = EngineSearch(
                padded,
                operator.mean_place_m,
                gain_db,
                noise_db,
                level_std_db=level_std_db,
                floor_db=self.scale.min_db if known else -np.inf,
                config=config.search,
            )
            found = engine.find(np.concatenate(start_m), generator)
            if found.pool:  # empty where no antenna can stand
                members = found.members(config.engines, generator)
                families.append(about.engine(engine, *members, about.few(generator), reference))
                places = found.places()
        if understated:  # what the first look left of it is still noise
            families = [family.with_nugget_as_noise() for family in families]
        gaps = about.gap_errors(families, free)
        shares = np.exp(gaps.log_shares())
        maps_dbm, spread_db, log_weight = agreed(grid, families, shares)
        usual = config.spread_scale ** gaps.drowned(shares)
        factor = gaps.spread_factor(shares, usual)
        rows, cols = site.grid.shape
        maps_dbm, spread_db = maps_dbm[:, :rows, :cols], spread_db[:, :rows, :cols]
        floor_dbm = reference + self.scale.min_db
        if known:
            maps_dbm = np.clip(maps_dbm, floor_dbm, reference + self.scale.max_db)
        maps_dbm = np.where(site.free, maps_dbm, floor_dbm)
        spread_db = np.where(site.free, np.hypot(spread_db * factor, level_db), 0.0)
        return MapPosterior(site.grid, maps_dbm, log_weight, spread_db, transmitters=places)

    def _prior(
        self,
        search: TransmitterSearch,
        about: Conditioning,
        few: Int[np.ndarray, " few"],
        free: Bool[np.ndarray, "rows cols"],
        reference_dbm: float,
    ) -> Family:
        """The prior's conditional means given the best supposed transmitters."""
        operator = about.operator
        means = search.conditional_means(
            operator.grid, free, operator.mean_place_m, self.config.places
        )
        family = about.maps(
            reference_dbm + self.scale.to_db(means.grey),
            self.scale.span_db * means.terms,
            few,
            deviation_db=PRIOR_DEVIATION_DB,
        )
        return replace(family, place_m=means.place_m)

    def _places(
        self, gain_db: np.ndarray, noise_db: np.ndarray, offset_std_db: float, seed: int
    ) -> TransmitterSearch:
        if self.network is None or self.term_prior is None:
            msg = "combined needs its network; build it by training.checkpoint.load_estimator"
            raise ConfigError(msg)
        span = self.scale.span_db
        return TransmitterSearch(
            self.network,
            (gain_db - self.scale.min_db) / span,
            noise_db / span,
            self.term_prior.with_offset_std(offset_std_db / span),
            model_std=self.config.model_std,
            temperature=self.config.temperature,
            seed=seed,
        )

    def with_options(self, **options: object) -> "Combined":
        """A copy with some settings of the config changed.

        Raises:
            ConfigError: if a setting is not known.
        """
        try:
            return replace(self, config=replace(self.config, **options))
        except TypeError as error:
            msg = f"combined has no such setting: {error}"
            raise ConfigError(msg) from error


METHOD = Combined
