"""The same shards from everyone who makes them, whatever stops them."""

import json
import logging
import sys
import time

import pytest

from hertzmap.benchmarks.data import content, kill_test
from hertzmap.core.errors import ConfigError, DataError, MissingExtraError
from hertzmap.datasets import executors, recipes, store
from hertzmap.datasets.diffloc_uma import DifflocConfig
from hertzmap.datasets.executors import part

TINY = DifflocConfig(
    seed=5, users=5, fast_users=2, snapshots=3, users_per_shard=2, coverage_dbm=None
)
"""As in conftest."""

SMALL = """
recipe: diffloc-uma
seed: 5
users: 5
fast_users: 2
snapshots: 3
users_per_shard: 2
coverage_dbm: null
"""


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def generated(folder, **how):
    plans = recipes.begin(TINY, folder)
    executors.run(plans, folder, recipes.make, **how)
    assert recipes.finish(folder)
    return content(folder)


def test_the_yaml_is_the_config(config_file):
    assert recipes.load_config(config_file) == TINY


@pytest.mark.slow
def test_a_pool_gives_the_same_shards(tmp_path, tiny_dataset):
    assert generated(tmp_path, workers=2) == content(tiny_dataset)


@pytest.mark.slow
def test_ray_gives_the_same_shards(tmp_path, tiny_dataset):
    pytest.importorskip("ray")
    assert generated(tmp_path, workers=2, ray="local") == content(tiny_dataset)


def test_parts_in_any_order_give_the_same_shards(tmp_path, tiny_dataset):
    plans = recipes.begin(TINY, tmp_path)
    for which in ("3/3", "1/3", "2/3"):
        assert not (tmp_path / recipes.DATASET).exists()
        executors.run(part(plans, which)[::-1], tmp_path, recipes.make)
        recipes.finish(tmp_path)
    assert content(tmp_path) == content(tiny_dataset)


def test_parts_are_all_and_do_not_overlap():
    parts = [part(list(range(11)), f"{index}/4") for index in range(1, 5)]
    assert sorted(one for each in parts for one in each) == list(range(11))
    for wrong in ("0/4", "5/4", "1", "a/b", "1/0"):
        with pytest.raises(ConfigError, match="i/n"):
            part([], wrong)


@pytest.mark.slow
def test_killed_generations_go_on_to_the_same_bytes(tmp_path, config_file):
    found = kill_test(config_file, tmp_path / "kill", 5)
    assert found.unlike == () and found.kills == 5 and found.generations >= 1


def test_finished_shards_stay_untouched(tmp_path):
    plans = recipes.begin(TINY, tmp_path)
    executors.run(plans[:2], tmp_path, recipes.make)
    files = {
        file: (file.stat().st_mtime_ns, file.stat().st_ino)
        for file in (tmp_path / "shards").rglob("*")
        if file.is_file()
    }
    told = []
    executors.run(plans, tmp_path, recipes.make, tell=told.append)
    assert all((file.stat().st_mtime_ns, file.stat().st_ino) == was for file, was in files.items())
    assert [state.made for state in told] == [False, False, True, True]


def test_progress_counts_and_guesses_the_rest(tmp_path):
    told = []

    def slowly(item, folder):
        assert folder == tmp_path
        time.sleep(0.02)
        return item.number != 0

    executors.run(recipes.plan(TINY), tmp_path, slowly, tell=told.append)
    assert [state.done for state in told] == [1, 2, 3, 4] and told[-1].eta_s == 0.0
    assert told[0].eta_s is None and told[1].eta_s > 0.02


def test_a_failing_shard_does_not_stop_the_others(tmp_path, caplog):
    def make(item, folder):
        if item.number == 1:
            msg = "the map is broken"
            raise DataError(msg)
        return recipes.make(item, folder)

    plans = recipes.begin(TINY, tmp_path)
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(DataError, match=r"1 of 4 shards failed, first shard 1: the map is broken"),
    ):
        executors.run(plans, tmp_path, make)
    done = [store.is_finished(tmp_path, item.number, item.facts()) for item in plans]
    assert done == [True, False, True, True]


def test_another_config_is_refused(tmp_path, config_file):
    recipes.begin(TINY, tmp_path / "data")
    config_file.write_text(SMALL.replace("seed: 5", "seed: 6"))
    with pytest.raises(ConfigError, match=r"other settings \(seed\)"):
        recipes.begin(recipes.load_config(config_file), tmp_path / "data")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("seed: 5", "sed: 5"), "sed"),
        (("seed: 5", "seed: five"), "seed"),
        (("users: 5", "users: -5"), "users"),
        (("recipe: diffloc-uma", "recipe: difloc"), "choose one of diffloc-uma"),
        (("recipe: diffloc-uma", "seeds: 3"), "must name its recipe"),
        (("seed: 5", "seed: ["), "cannot be read"),
    ],
)
def test_configs_are_read_strictly(config_file, change, said):
    config_file.write_text(SMALL.replace(*change))
    with pytest.raises(ConfigError, match=said):
        recipes.load_config(config_file)


def test_a_run_needs_a_worker(tmp_path):
    with pytest.raises(ConfigError, match="worker"):
        executors.run([], tmp_path, recipes.make, workers=0)


def test_without_ray_the_message_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match="cluster"):
        executors.run(recipes.plan(TINY), tmp_path, recipes.make, ray="local")


def test_shards_hold_no_time_and_no_host(tiny_dataset):
    logs = [json.loads(file.read_text()) for file in (tiny_dataset / "shards").glob("*.log")]
    assert len(logs) == 4 and all(log["seconds"] > 0 for log in logs)
    text = b"".join(file.read_bytes() for file in (tiny_dataset / "shards").rglob("*.json"))
    for log in logs:
        assert log["finished"].encode() not in text and f'"{log["host"]}"'.encode() not in text
