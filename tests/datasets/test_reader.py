"""Batches hold what was stored, in any order, in any process, and never the truth."""

import multiprocessing
import pickle
import shutil

import numpy as np
import pytest

from hertzmap.core.errors import ConfigError, DataError
from hertzmap.datasets import recipes, store
from hertzmap.datasets.diffloc_uma import DifflocConfig, layout, trajectory
from hertzmap.datasets.reader import Dataset, read_truth

TINY = DifflocConfig(
    seed=5, users=5, fast_users=2, snapshots=3, users_per_shard=2, coverage_dbm=None
)
"""As in conftest."""


def first_delays(folder_or_dataset):
    dataset = folder_or_dataset
    batch = next(dataset.batches("user", "train", 4, seed=1))
    return batch.channels.first_delay_s


def test_one_pass_holds_every_snapshot_once(tiny_dataset):
    dataset = Dataset(tiny_dataset)
    for split in dataset.facts["splits"]:
        for part in dataset.facts["parts"]:
            index = dataset.index(split, part)
            seen = [batch.index for batch in dataset.batches(split, part, 4, seed=3)]
            assert sum(map(len, seen)) == len(index)
            if len(index):
                together = np.concatenate(seen)
                assert np.array_equal(np.unique(together, axis=0), np.unique(index, axis=0))


@pytest.mark.parametrize("memory_mib", [256.0, 0.05, 0.0])
def test_random_and_sequential_reads_agree(tiny_dataset, memory_mib):
    dataset = Dataset(tiny_dataset, memory_mib=memory_mib)
    index = dataset.index("random", "train")
    whole = dataset.read(index)
    order = np.random.default_rng(0).permutation(len(index))
    mixed = dataset.read(index[order])
    assert mixed.channels is not None and whole.channels is not None
    assert np.array_equal(mixed.channels.path_gain_db, whole.channels.path_gain_db[order])
    assert np.array_equal(mixed.values["ue/time"], whole.values["ue/time"][order])
    truth = read_truth(dataset, index)
    assert np.array_equal(read_truth(dataset, index[order])["position"], truth["position"][order])


def test_channels_and_labels_belong_together(tiny_dataset):
    """The line of sight is as long as the way from the label to each station."""
    dataset = Dataset(tiny_dataset)
    for batch in dataset.batches("fast", "test", 4, seed=0):
        assert batch.channels is not None
        place = read_truth(dataset, batch.index)["position"]
        stations = np.array([one.place_m for one in batch.channels.transmitters])
        length = np.linalg.norm(place[:, None] - stations, axis=-1)
        np.testing.assert_allclose(batch.channels.first_delay_s * 299_792_458.0, length, rtol=1e-12)


def test_what_is_read_is_what_the_backend_gave(tiny_dataset):
    dataset = Dataset(tiny_dataset)
    here = layout(TINY)
    index = dataset.index("user", "train")
    truth = read_truth(dataset, index)
    identity = dataset.read(index).values["ue/id"]
    for row, (_, _, step) in enumerate(index.tolist()):
        way, _ = trajectory(TINY, "pedestrian", int(identity[row]))
        assert np.array_equal(way.place_m[step], truth["position"][row, :2])
    assert [one.name for one in dataset.transmitters(0)] == [one.name for one in here.stations]


def test_no_method_sees_the_truth(tiny_dataset, tmp_path):
    folder = tmp_path / "dataset"
    shutil.copytree(tiny_dataset, folder)
    before = first_delays(Dataset(folder))
    for group in folder.glob("shards/*.zarr/truth"):
        shutil.rmtree(group)
    dataset = Dataset(folder)
    assert np.array_equal(first_delays(dataset), before)
    assert all("truth" not in name for name in next(dataset.batches("user", "train", 2)).values)
    with pytest.raises(DataError, match="read_truth"):
        Dataset(tiny_dataset).group(0, "truth")
    with pytest.raises(DataError, match="truth"):
        read_truth(dataset, dataset.index("user", "train"))


def _of_another_process(dataset, queue):
    queue.put(first_delays(dataset).tolist())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork beside threads, on purpose
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_each_process_opens_the_store_itself(tiny_dataset, method):
    dataset = Dataset(tiny_dataset)
    expected = first_delays(dataset)
    assert not pickle.loads(pickle.dumps(dataset))._open
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=_of_another_process, args=(dataset, queue))
    process.start()
    assert queue.get(timeout=60) == expected.tolist()
    process.join()


def test_nothing_on_disk_is_pickled(tiny_dataset):
    for file in tiny_dataset.rglob("*"):
        if file.is_file():
            head = file.read_bytes()[:2]
            assert file.suffix in (".json", ".log") or "/c/" in str(file)
            assert head[:1] != b"\x80"  # the mark of a pickle


def test_an_unfinished_dataset_is_refused(tmp_path):
    recipes.begin(TINY, tmp_path)
    with pytest.raises(DataError, match="finish it"):
        Dataset(tmp_path)
    assert not recipes.finish(tmp_path)
    assert not (tmp_path / recipes.DATASET).exists()


def test_unknown_splits_are_refused(tiny_dataset):
    with pytest.raises(ConfigError, match="splits: random, user"):
        Dataset(tiny_dataset).index("by-moon", "train")


def test_the_counts_of_the_dataset_are_those_of_its_shards(tiny_dataset):
    dataset = Dataset(tiny_dataset)
    links = sum(
        len(store.open_group(tiny_dataset, shard, "rt")["offset"]) - 1 for shard in dataset.shards
    )
    counts = dataset.facts["counts"]
    assert counts["links"] == links == 7 * 3 * 7
    assert counts["links_with_paths"] == counts["links"] and counts["snapshots"] == 21
