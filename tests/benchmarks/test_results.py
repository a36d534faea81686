import json

import numpy as np
import pytest

from hertzmap.benchmarks import results
from hertzmap.benchmarks.results import PairedDifference, ResultFile, ResultRow
from hertzmap.core.errors import DataError


def a_file() -> ResultFile:
    header = results.provenance("hash", "protocol", same_engine=True)
    row = ResultRow("kriging:tuned", "psnr_db", "dB", 25.0, 0.5, 24, 21.4)
    gap = PairedDifference("a:b", "kriging:tuned", "psnr_db", "dB", 1.0, 0.5, 1.5, 24)
    return ResultFile(header, (row,), (gap,))


def test_a_result_file_is_read_back_as_written(tmp_path):
    path = tmp_path / "maps" / "default.json"
    results.write(path, a_file())
    assert results.read(path) == a_file()
    assert [p.name for p in path.parent.iterdir()] == ["default.json"]


def test_the_header_says_how_the_numbers_came_about(tmp_path):
    path = tmp_path / "default.json"
    results.write(path, a_file())
    header = json.loads(path.read_text())["header"]
    assert {"config_hash", "commit", "versions", "hardware", "protocol"} <= set(header)
    assert header["same_engine"] is True
    assert {"python", "numpy"} <= set(header["versions"])
    assert header["hardware"]["cores"] >= 1


@pytest.mark.parametrize("text", ["", '{"header": {}}', '{"header": {}, "results": [{"m": 1}]}'])
def test_a_damaged_file_is_refused(tmp_path, text):
    path = tmp_path / "default.json"
    path.write_text(text)
    with pytest.raises(DataError, match="no result file"):
        results.read(path)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "default.json"
    results.write(path, a_file())
    bad = ResultFile({}, (ResultRow("a:b", "psnr_db", "dB", float("nan"), None, 1),))
    with pytest.raises(ValueError, match="JSON"):
        results.write(path, bad)
    assert results.read(path) == a_file()


def test_standard_error_of_the_bootstrap_is_that_of_the_mean():
    values = np.random.default_rng(1).normal(10.0, 2.0, 60)
    expected = values.std() / np.sqrt(60)
    assert results.standard_error(values) == pytest.approx(expected, rel=0.08)
    low, high = results.interval95(values) or (0.0, 0.0)
    assert (high - low) / 2 == pytest.approx(1.96 * expected, rel=0.1)
    assert low < values.mean() < high


def test_one_environment_has_no_error_bar():
    assert results.standard_error(np.array([1.0])) is None
    assert results.interval95(np.array([1.0])) is None


def test_settings_hash_by_content():
    assert results.hash_of({"a": 1}) != results.hash_of({"a": 2})
