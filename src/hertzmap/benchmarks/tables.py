"""The paper's four tables as data, and the cells of the map benchmark.

The paper's grid has 11 distinct cells printed as 13 rows: the default cell (kp 0.05, SNR 5 dB,
drift 0.8) stands three times. Two cells on RadioMapSeer's ten public maps come on top. The settings
of each cell lie in ``configs/maps/<cell>.yaml``.

Source: Wang, Wang and Cheng, RadioDiff-Inv2 (arXiv 2606.08439), tables of PSNR, SSIM, LPIPS, NMSE.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, final

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from hertzmap.benchmarks.mismatch import MismatchConfig
from hertzmap.core.errors import ConfigError
from hertzmap.datasets import splits
from hertzmap.measurement.sampling import SamplingConfig

PAPER_METHODS = {
    "radiodiff_inv2": "RadioDiff-Inv2",
    "radiodiff_inv1": "RadioDiff-Inv1",
    "kriging": "Kriging",
    "radiounet": "RadioUNet",
    "rme_gan": "RME-GAN",
}
"""Our name of each method in the paper, and the paper's; in the order of the paper's columns."""

PRINTED_ROWS = {
    "kp 0.005": "kp-0.005",
    "kp 0.01": "kp-0.01",
    "kp 0.05": "default",
    "kp 0.1": "kp-0.1",
    "SNR 0 dB": "snr-0",
    "SNR 1 dB": "snr-1",
    "SNR 5 dB": "default",
    "SNR 10 dB": "snr-10",
    "drift 0.0": "drift-0",
    "drift 0.8": "default",
    "drift 1.6": "drift-1.6",
    "drift 2.4": "drift-2.4",
    "drift 3.2": "drift-3.2",
}
"""The 13 rows as printed, and the cell each stands for."""

RADIOMAPSEER_ROWS = {
    "radiomapseer-kp-0.005": "kp 0.005",
    "radiomapseer-kp-0.05": "kp 0.05",
}
"""Our cells on RadioMapSeer's own maps, and the printed row with the same settings."""

CELLS = (*dict.fromkeys(PRINTED_ROWS.values()), *RADIOMAPSEER_ROWS)
"""All cells, in the order they are run by default."""

CASES: tuple[str, ...] = (
    "exponents",
    "misstated-half",
    "misstated-double",
    "streets",
    "offset",
    "two-transmitters",
    "ray-traced",
)
"""Cases in which something is unlike what estimators assume; RadioMapSeer and the campus are two
more, with commands of their own. Settings: ``configs/mismatch/<case>.yaml``."""

PUBLISHED: dict[str, dict[str, tuple[float, float, float, float, float]]] = {
    "paper_psnr_db": {
        "kp 0.005": (23.8166, 16.4509, 20.0272, 18.4192, 18.6240),
        "kp 0.01": (25.9965, 17.5264, 19.7745, 18.3819, 18.0740),
        "kp 0.05": (31.3158, 23.4786, 21.3934, 16.5840, 17.2337),
        "kp 0.1": (35.2599, 26.0809, 20.8388, 14.7310, 17.6324),
        "SNR 0 dB": (31.3326, 23.1789, 16.3286, 9.8380, 10.3833),
        "SNR 1 dB": (31.3401, 23.3322, 17.2021, 11.1680, 11.6925),
        "SNR 5 dB": (31.3330, 23.5085, 21.4634, 16.5840, 17.2337),
        "SNR 10 dB": (31.3377, 23.5789, 22.6505, 21.9962, 24.2726),
        "drift 0.0": (35.6778, 23.4182, 21.3606, 16.5753, 17.2537),
        "drift 0.8": (31.3414, 23.5850, 21.5808, 16.5840, 17.2337),
        "drift 1.6": (30.2325, 23.2091, 21.3757, 16.5210, 17.1866),
        "drift 2.4": (29.3789, 23.4959, 21.3979, 16.3748, 17.2023),
        "drift 3.2": (29.1051, 23.3902, 21.1048, 16.3402, 17.2325),
    },
    "paper_ssim": {
        "kp 0.005": (0.8817, 0.5405, 0.7262, 0.6431, 0.7806),
        "kp 0.01": (0.8982, 0.5524, 0.6670, 0.6045, 0.7489),
        "kp 0.05": (0.9250, 0.7869, 0.5425, 0.4898, 0.7210),
        "kp 0.1": (0.9481, 0.8559, 0.4407, 0.4112, 0.7228),
        "SNR 0 dB": (0.9250, 0.7624, 0.4408, 0.2778, 0.5123),
        "SNR 1 dB": (0.9249, 0.7767, 0.4573, 0.3151, 0.5557),
        "SNR 5 dB": (0.9250, 0.7857, 0.5424, 0.4898, 0.7210),
        "SNR 10 dB": (0.9249, 0.7897, 0.6157, 0.6677, 0.8567),
        "drift 0.0": (0.9628, 0.7853, 0.5420, 0.4939, 0.7239),
        "drift 0.8": (0.9250, 0.7889, 0.5473, 0.4898, 0.7210),
        "drift 1.6": (0.9198, 0.7817, 0.5436, 0.4855, 0.7199),
        "drift 2.4": (0.9126, 0.7880, 0.5444, 0.4787, 0.7196),
        "drift 3.2": (0.9114, 0.7826, 0.5410, 0.4748, 0.7186),
    },
    "paper_lpips": {
        "kp 0.005": (0.0613, 0.3695, 0.1941, 0.2762, 0.1430),
        "kp 0.01": (0.0477, 0.3451, 0.2514, 0.3004, 0.1573),
        "kp 0.05": (0.0286, 0.1535, 0.4045, 0.3782, 0.1633),
        "kp 0.1": (0.0185, 0.0894, 0.5128, 0.4479, 0.1662),
        "SNR 0 dB": (0.0284, 0.1702, 0.4631, 0.5670, 0.2785),
        "SNR 1 dB": (0.0285, 0.1669, 0.4642, 0.5303, 0.2486),
        "SNR 5 dB": (0.0285, 0.1623, 0.4004, 0.3782, 0.1633),
        "SNR 10 dB": (0.0285, 0.1529, 0.3204, 0.2535, 0.1041),
        "drift 0.0": (0.0178, 0.1566, 0.4069, 0.3742, 0.1625),
        "drift 0.8": (0.0285, 0.1564, 0.4013, 0.3782, 0.1633),
        "drift 1.6": (0.0316, 0.1548, 0.4015, 0.3804, 0.1648),
        "drift 2.4": (0.0335, 0.1474, 0.4048, 0.3848, 0.1653),
        "drift 3.2": (0.0362, 0.1565, 0.4052, 0.3881, 0.1632),
    },
    "paper_nmse": {
        "kp 0.005": (0.066586, 0.243266, 0.104454, 0.139334, 0.101889),
        "kp 0.01": (0.041929, 0.196484, 0.150055, 0.140056, 0.116849),
        "kp 0.05": (0.010989, 0.052166, 0.075258, 0.212081, 0.140124),
        "kp 0.1": (0.004001, 0.029898, 0.085048, 0.322920, 0.128131),
        "SNR 0 dB": (0.010990, 0.055630, 0.236122, 1.002096, 0.674556),
        "SNR 1 dB": (0.010984, 0.054514, 0.197904, 0.736565, 0.499116),
        "SNR 5 dB": (0.010989, 0.052716, 0.072380, 0.212081, 0.140124),
        "SNR 10 dB": (0.010987, 0.050245, 0.066463, 0.061498, 0.028066),
        "drift 0.0": (0.003916, 0.052986, 0.078509, 0.211420, 0.139272),
        "drift 0.8": (0.010986, 0.051193, 0.070276, 0.212081, 0.140124),
        "drift 1.6": (0.013278, 0.055088, 0.077801, 0.215149, 0.141853),
        "drift 2.4": (0.014795, 0.051948, 0.076699, 0.222143, 0.141316),
        "drift 3.2": (0.016698, 0.053901, 0.090516, 0.224014, 0.139965),
    },
}
"""Published figures: metric, printed row, then one figure per method of `PAPER_METHODS`."""


@final
@dataclass(frozen=True)
class Metric:
    """How a metric is called and printed."""

    title: str
    """Column title."""
    unit: str
    """Unit in words; ``1`` for a pure number."""
    digits: int
    """Decimals in a table."""


METRICS = {
    "psnr_db": Metric("PSNR", "dB", 2),
    "ssim": Metric("SSIM", "1", 3),
    "nmse": Metric("NMSE", "1", 4),
    "rmse_db": Metric("RMSE", "dB", 2),
    "mae_db": Metric("MAE", "dB", 2),
    "crps_db": Metric("CRPS", "dB", 2),
    "coverage50": Metric("coverage of 50 %", "1", 2),
    "coverage80": Metric("coverage of 80 %", "1", 2),
    "coverage90": Metric("coverage of 90 %", "1", 2),
    "coverage95": Metric("coverage of 95 %", "1", 2),
    "width90_db": Metric("width of 90 %", "dB", 1),
    "psnr_lit_db": Metric("PSNR, lit cells", "dB", 2),
    "paper_psnr_db": Metric("PSNR, paper protocol", "dB", 2),
    "paper_ssim": Metric("SSIM, paper protocol", "1", 3),
    "paper_nmse": Metric("NMSE, paper protocol", "1", 4),
    "paper_lpips": Metric("LPIPS, paper protocol", "1", 3),
    "seconds": Metric("time", "s", 1),
    "cpu_seconds": Metric("processor time", "s", 1),
    "peak_rss_mib": Metric("peak memory", "MiB", 0),
}
"""Known metrics; others are printed under their own name."""


@final
@dataclass(frozen=True)
class Cities:
    """Cities of a cell, by split."""

    test: tuple[str, ...] = ()
    """Cities of the test split: the figures of record."""
    validation: tuple[str, ...] = ()
    """Cities of the validation split: for every choice that is made by looking."""


@final
@dataclass(frozen=True)
class CellConfig:
    """Settings of one cell of the map benchmark: one YAML file."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    cell: str
    """Name of the cell; the file's name."""
    world: Literal["cities", "radiomapseer", "ray-traced"]
    """Truth: our engine on real cities, RadioMapSeer's ten public maps, or shipped ray-traced maps
    of the test cities."""
    sampling: SamplingConfig
    """How the reports are taken."""
    report_seeds: tuple[int, ...]
    """One pass over all maps per seed."""
    methods: tuple[str, ...]
    """Methods as ``name:preset[:option=value,...]``."""
    headline: str
    """The method of ours that stands in the tables of all cells; chosen on validation cities."""
    baseline: str
    """The method that paired differences are taken against."""
    cities: Cities = Cities()
    """Cities by split; none in a RadioMapSeer cell."""
    maps_per_city: int = 5
    """Maps per city: tile, transmitter and propagation are drawn for each."""
    most_maps: dict[str, int] = field(default_factory=dict)
    """Maps of those cities that have fewer tiles."""
    fewer_maps: dict[str, int] = field(default_factory=dict)
    """Slow methods, each with the number of worlds it is run on, under the first report seed."""
    mismatch: MismatchConfig | None = None
    """What is unlike the usual benchmark; nothing in the paper's cells."""

    def __post_init__(self) -> None:
        strangers = set(self.cities.test) - set(splits.TEST)
        strangers |= set(self.cities.validation) - set(splits.VALIDATION)
        if strangers:
            msg = f"cell {self.cell!r}: {sorted(strangers)} are not cities of their split"
            raise ValueError(msg)
        needed = {"cities": (True, True), "ray-traced": (True, False)}.get(
            self.world, (False, False)
        )
        if (bool(self.cities.test), bool(self.cities.validation)) != needed:
            msg = (
                f"cell {self.cell!r}: world 'cities' needs cities of both splits, 'ray-traced' "
                "test cities alone, others none"
            )
            raise ValueError(msg)
        unlisted = {self.headline, self.baseline} - set(self.methods)
        if unlisted:
            msg = f"cell {self.cell!r}: {sorted(unlisted)} must be among the cell's methods"
            raise ValueError(msg)
        strays = (set(self.most_maps) - {*self.cities.test, *self.cities.validation}) | (
            set(self.fewer_maps) - set(self.methods)
        )
        if strays:
            msg = f"cell {self.cell!r}: {sorted(strays)} are none of its cities or methods"
            raise ValueError(msg)
        if self.maps_per_city < 1 or not self.report_seeds:
            msg = f"cell {self.cell!r} needs maps_per_city >= 1 and at least one report seed"
            raise ValueError(msg)


_CELL_CONFIG = TypeAdapter(CellConfig)


def project_root() -> Path:
    """The checkout that holds ``configs``, ``results`` and the documents."""
    return Path(__file__).resolve().parents[3]


def load_cell(name: str, folder: Path | None = None) -> CellConfig:
    """Read and check one cell's YAML.

    Args:
        name: cell, e.g. ``default`` or ``kp-0.005``.
        folder: where the files lie; ``configs/maps`` of the checkout by default.

    Raises:
        ConfigError: if there is no such cell, or a setting is unknown, missing or wrong.
    """
    home = "mismatch" if name in CASES else "maps"
    path = (folder or project_root() / "configs" / home) / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join((*CELLS, *CASES))
        msg = f"no cell {name!r}: {path} does not exist; the cells are {known}"
        raise ConfigError(msg)
    try:
        config = _CELL_CONFIG.validate_json(json.dumps(yaml.safe_load(path.read_text())))
    except (yaml.YAMLError, ValidationError) as error:
        msg = f"{path} is not a valid cell: {error}"
        raise ConfigError(msg) from error
    if config.cell != name:
        msg = f"{path} calls itself {config.cell!r}; its cell must be its file name {name!r}"
        raise ConfigError(msg)
    return config


def printed_rows(cell: str) -> tuple[str, ...]:
    """The printed rows a cell stands for: three for the default cell.

    >>> printed_rows("default")
    ('kp 0.05', 'SNR 5 dB', 'drift 0.8')
    """
    if cell in RADIOMAPSEER_ROWS:
        return (RADIOMAPSEER_ROWS[cell],)
    if cell in CASES:
        return ()
    return tuple(row for row, stands_for in PRINTED_ROWS.items() if stands_for == cell)


def published(row: str, metric: str, method: str) -> float | None:
    """The paper's figure of a printed row, e.g. ``published("kp 0.05", "paper_ssim", "kriging")``.

    Args:
        row: printed row, a key of `PRINTED_ROWS`.
        metric: metric of the paper protocol.
        method: our name of the method, with or without preset and options.

    Returns:
        The figure, or None when the paper has no such method or metric.
    """
    name = method.split(":", 1)[0]
    if metric not in PUBLISHED or name not in PAPER_METHODS or row not in PUBLISHED[metric]:
        return None
    return PUBLISHED[metric][row][list(PAPER_METHODS).index(name)]
