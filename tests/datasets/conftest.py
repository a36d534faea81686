import pytest

from hertzmap.datasets import executors, recipes
from hertzmap.datasets.diffloc_uma import DifflocConfig

TINY = DifflocConfig(
    seed=5, users=5, fast_users=2, snapshots=3, users_per_shard=2, coverage_dbm=None
)


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory):
    """A finished dataset of seven users with scattered channels; only for reading."""
    folder = tmp_path_factory.mktemp("tiny") / "dataset"
    executors.run(recipes.begin(TINY, folder), folder, recipes.make)
    assert recipes.finish(folder)
    return folder
