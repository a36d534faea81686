import pytest

from hertzmap.benchmarks import maps, results, speed, worlds


@pytest.mark.usefixtures("tiny")
def test_time_and_memory_of_each_method_stand_in_one_file(tmp_path):
    path = speed.run(tmp_path, ["nearest:default", "idw:tuned"], repeats=1)
    found = results.read(path)
    assert found.methods() == ("nearest:default", "idw:tuned")
    assert {row.metric for row in found.results} == {"seconds", "cpu_seconds", "peak_rss_mib"}
    assert all(row.mean > 0.0 for row in found.results)
    assert found.header["threads"] >= 1 and found.header["repeats"] == 1


def test_every_knob_is_a_setting():
    for method in maps.KNOBS:
        assert maps.method_tools.build(method)
    assert worlds.TRUTH_VERSION
