"""The ready-made datasets are whole, small, and those of their configs."""

import numpy as np
import pytest

from hertzmap.benchmarks.tables import project_root
from hertzmap.datasets import recipes, store
from hertzmap.datasets.reader import Dataset, read_sequences, read_truth
from hertzmap.datasets.remote import BUNDLED

NAMES = ("diffloc-uma-small", "mapcond-cities-small")


@pytest.mark.parametrize("name", NAMES)
def test_shipped_datasets_are_sound(name):
    folder = BUNDLED / "datasets" / name
    plans = recipes.read_plans(folder)
    config = recipes.load_config(project_root() / "configs" / "datasets" / f"{name}.yaml")
    assert plans[0].config == config
    for item in plans:
        assert store.is_finished(folder, item.number, item.facts())
        assert store.shard_problems(folder, item.number) == []
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert size < 16 * 2**20
    assert "OpenStreetMap" in Dataset(folder).facts["attribution"]


def test_the_shipped_channels_are_of_a_real_place():
    dataset = Dataset(BUNDLED / "datasets" / "diffloc-uma-small")
    counts = dataset.facts["counts"]
    assert 0.7 < counts["links_with_paths"] / counts["links"] <= 1.0
    index = dataset.index("user", "train")
    batch, place = dataset.read(index), read_truth(dataset, index)["position"]
    assert batch.channels is not None
    stations = np.array([one.place_m for one in batch.channels.transmitters])
    straight_s = np.linalg.norm(place[:, None] - stations, axis=-1) / 299_792_458.0
    first_s = batch.channels.first_delay_s
    seen = batch.channels.los
    np.testing.assert_allclose(first_s[seen], straight_s[seen], rtol=1e-5)
    late = np.isfinite(first_s) & ~seen
    assert np.all(first_s[late] >= straight_s[late] * (1.0 - 1e-6))


def test_the_shipped_tiles_train_and_test():
    dataset = Dataset(BUNDLED / "datasets" / "mapcond-cities-small")
    parts = {part: len(dataset.index("city", part)) for part in dataset.facts["parts"]}
    assert parts == {"train": 120, "validation": 60, "test": 60}
    assert len(dataset.index("trajectory", "train")) > len(dataset.index("trajectory", "test"))
    index = dataset.index("city", "test")
    assert read_sequences(dataset, index).present("ss_rsrp").mean() > 0.1
    assert len(dataset.facts["normalisation"]["mean"]) == 5
