"""The figures of a dataset are those of what lies on the disk."""

import pytest

from hertzmap.apps import dataset_plots, plots
from hertzmap.benchmarks import data
from hertzmap.benchmarks.results import read
from hertzmap.core.errors import DataError
from hertzmap.datasets import executors, recipes
from hertzmap.datasets.diffloc_uma import DifflocConfig
from hertzmap.datasets.mapcond_cities import MapcondConfig
from hertzmap.datasets.reader import Dataset

TINY = DifflocConfig(
    seed=5, users=10, fast_users=5, snapshots=2, users_per_shard=5, coverage_dbm=None
)
TILES = MapcondConfig(
    validation=("karlsruhe_kirchfeld",), test=(), tiles=1, tile_cells=48, sites=1, sequences=4
)


def made(config, folder):
    executors.run(recipes.begin(config, folder), folder, recipes.make)
    assert recipes.finish(folder)
    return folder


def test_figures_of_channels(tmp_path):
    folder = made(TINY, tmp_path / "tiny")
    found = read(data.run(folder, tmp_path / "results"))

    def value(method, metric):
        row = found.row(method, metric)
        assert row is not None, (method, metric)
        return row.mean

    assert value("diffloc-uma", "links") == 15 * 2 * 7
    assert value("diffloc-uma", "links_with_paths") == 100.0  # scatterers are seen by all
    assert value("BS3", "line_of_sight") == 100.0
    assert value("taps of 10 users", "links") == 70
    assert value("taps of 10 users", "links_a_second") > 0
    assert value("random", "train") == 12 and value("user", "train") == 12
    # whole users left out are farther from training than their own other snapshots
    assert value("random", "nearest_training_mean") < value("user", "constant_guess_mean_error")
    assert found.header["engine"] == "scatter"
    picture = tmp_path / "layout.png"
    plots.save(dataset_plots.dataset_figure(Dataset(folder)), picture)
    assert picture.stat().st_size > 20_000


def test_figures_of_tiles(tmp_path):
    folder = made(TILES, tmp_path / "tiles")
    found = read(data.run(folder, tmp_path / "results"))
    row = found.row("validation", "filled_share")
    assert row is not None and row.mean == 0.0
    row = found.row("validation", "reports")
    assert row is not None and row.mean == 44
    picture = tmp_path / "tile.png"
    plots.save(dataset_plots.dataset_figure(Dataset(folder)), picture)
    assert picture.stat().st_size > 20_000


def test_an_unfinished_dataset_has_no_figures(tmp_path):
    recipes.begin(TINY, tmp_path)
    with pytest.raises(DataError, match="finish it"):
        data.run(tmp_path, tmp_path)
