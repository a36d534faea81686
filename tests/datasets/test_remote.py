import json

import pytest

from hertzmap.core.errors import DataError
from hertzmap.datasets import remote
from hertzmap.datasets.splits import HELD_OUT


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(remote.ENVIRONMENT_VARIABLE, str(tmp_path))
    return tmp_path


def bundled_files():
    notes = ("README.md", "LICENSE.md", "INDEX.json", "manifest.json")
    made = remote.BUNDLED / "datasets"  # our own; its shards carry their hashes
    files = [path for path in remote.BUNDLED.rglob("*") if path.is_file()]
    return [path for path in files if path.name not in notes and made not in path.parents]


def test_the_variable_names_the_folder(folder):
    assert remote.data_root() == folder


def test_a_variable_that_names_no_folder_is_refused(monkeypatch):
    monkeypatch.setenv(remote.ENVIRONMENT_VARIABLE, "/no/such/folder")
    with pytest.raises(DataError, match="correct the variable"):
        remote.data_root()


def test_without_the_variable_there_is_always_a_folder(monkeypatch):
    monkeypatch.delenv(remote.ENVIRONMENT_VARIABLE, raising=False)
    assert (remote.data_root() / "osm").is_dir()


def test_the_data_folder_wins_over_the_bundled_copy(folder):
    assert remote.find("rsrp-campus/reports.csv").is_relative_to(remote.BUNDLED)
    (folder / "rsrp-campus").mkdir()
    (folder / "rsrp-campus" / "reports.csv").write_text("other")
    assert remote.find("rsrp-campus/reports.csv").is_relative_to(folder)


@pytest.mark.usefixtures("folder")
def test_a_missing_file_is_told_its_source_and_the_remedy():
    with pytest.raises(DataError, match=r"comes from https://github.com/.*HERTZMAP_DATA"):
        remote.find("osm/geneva.osm.pbf")
    with pytest.raises(DataError, match="the manifest has no such file"):
        remote.find("osm/atlantis.osm.pbf")


def test_a_damaged_file_is_found_out(folder):
    assert remote.verify("osm/heidelberg.osm.pbf").is_file()
    (folder / "osm").mkdir()
    (folder / "osm" / "heidelberg.osm.pbf").write_bytes(b"changed")
    with pytest.raises(DataError, match="is damaged"):
        remote.verify("osm/heidelberg.osm.pbf")


def test_a_file_outside_the_manifest_cannot_be_verified(folder):
    (folder / "note.txt").write_text("hello")
    with pytest.raises(DataError, match="not in the manifest"):
        remote.verify("note.txt")


@pytest.mark.usefixtures("folder")
def test_every_bundled_file_is_in_the_manifest_and_whole():
    files = bundled_files()
    traced = [path for path in files if path.parent.name == "raytraced"]
    assert len(files) == 10 + 2 + 13 + 1 + len(traced) and len(traced) >= 9
    for path in files:
        name = path.relative_to(remote.BUNDLED).as_posix()
        assert remote.verify(name) == path
        assert remote.manifest()[name].size == path.stat().st_size
        assert remote.manifest()[name].licence and remote.manifest()[name].source


def test_the_whole_data_folder_is_as_the_manifest_says():
    places = (remote.data_root(), remote.BUNDLED)
    missing = [
        name for name in remote.manifest() if not any((one / name).exists() for one in places)
    ]
    if missing:
        pytest.skip(f"{remote.data_root()} is not the full data folder")
    for name in remote.manifest():
        remote.verify(name)


def test_the_bundle_is_small_and_says_its_licences():
    assert sum(path.stat().st_size for path in bundled_files()) < 6_000_000
    for folder in (remote.BUNDLED / "datasets").iterdir():
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        assert sum(sizes) < 16 * 2**20
    for part, credit in (
        ("osm", "© OpenStreetMap contributors"),
        ("raytraced", "© OpenStreetMap contributors"),
        ("rsrp-campus", "Copyright (c) 2019 jakthra"),
        ("radiomapseer", "CC BY 4.0"),
    ):
        assert credit in (remote.BUNDLED / part / "LICENSE.md").read_text(encoding="utf-8")


def test_the_bundled_index_lists_the_bundled_extracts():
    index = json.loads((remote.BUNDLED / "osm" / "INDEX.json").read_text(encoding="utf-8"))
    shipped = {path.name for path in bundled_files() if path.parent.name == "osm"}
    assert {entry["file"] for entry in index} == shipped
    assert {entry["name"] for entry in index} == set(HELD_OUT)


@pytest.mark.usefixtures("folder")
def test_an_extract_is_found_by_its_name():
    assert remote.extracts() == tuple(sorted(HELD_OUT))
    assert remote.extract_path("austin_ut").name == "austin_ut.osm.gz"
    with pytest.raises(DataError, match="no map extract 'geneva'"):
        remote.extract_path("geneva")
