"""Measurement reports survive a table and a JSON file, and wrong files are named in words."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hertzmap.core.errors import DataError, ReportsError
from hertzmap.core.grid import Grid
from hertzmap.core.kpi import PowerBudget
from hertzmap.core.seeds import generator
from hertzmap.core.sequences import (
    BELOW_DETECTION,
    DROPPED,
    NOT_CONFIGURED,
    PRESENT,
    QUANTITIES,
)
from hertzmap.core.types import RadioMap, Scene, Transmitter
from hertzmap.datasets.sequences_json import read_measurements, write_measurements
from hertzmap.datasets.sequences_table import (
    COLUMNS,
    read_sequences,
    read_truth,
    write_sequences,
    write_truth,
)
from hertzmap.measurement.readings import read_channels, with_beams
from hertzmap.measurement.sequences import SequenceConfig, simulate
from hertzmap.measurement.trajectories import Trajectory
from hertzmap.propagation.arrays import port_gains
from hertzmap.propagation.scatter import ScatterConfig, ScatterWorld

GRID = Grid(30, 30, 10.0, (-150.0, -150.0))
SITES = tuple(
    Transmitter((120 * np.cos(a), 120 * np.sin(a), 20.0), 3.5e9) for a in np.linspace(0, 5.5, 5)
)
BUDGET = PowerBudget(total_dbm=20.0, load=0.1)
EMPTY = Scene((), np.zeros(0), (), (), (-150.0, -150.0, 150.0, 150.0), crs="EPSG:32632",
              origin_m=(477_000.0, 5_473_000.0))  # fmt: skip
FIELD = tuple(key for key in QUANTITIES if key in COLUMNS)


def radio_map():
    places = np.concatenate([GRID.centres_m(), np.full((*GRID.shape, 1), 1.5)], axis=-1)
    length = np.stack([np.linalg.norm(places - one.place_m, axis=-1) for one in SITES])
    gain = -43.3 - 35.0 * np.log10(length) + 10.0
    return RadioMap(GRID, gain, np.ones(length.shape, bool), SITES, length / 3e8)


def simulated(seed=0, samples=5, steps=4, config=None, beams=False):
    walks = []
    for k in range(samples):
        draw = generator(seed, k)
        start, step = draw.uniform(-100, 100, 2), draw.uniform(-3.0, 3.0, 2)
        place = start + step * np.arange(steps)[:, None]
        walks.append(Trajectory(0.2 * np.arange(steps), place, np.tile(step / 0.2, (steps, 1))))
    paths = None
    if beams:
        ue = np.column_stack(
            [np.concatenate([w.place_m for w in walks]), np.full(samples * steps, 1.5)]
        )
        channels = ScatterWorld(ScatterConfig(scatterers=3), seed=1).channels(SITES, ue)
        paths = read_channels(channels, samples, steps)
        paths = with_beams(paths, channels, port_gains(channels), BUDGET)
    return simulate(
        radio_map(), walks, BUDGET, config, seed=seed, paths=paths,
        cell_id=np.array([11, 12, 40, 41, 99]), pci=np.array([3, 500, 1007, 0, 8]),
    )  # fmt: skip


def same(found, own, keys):
    """Every value of `own` is in `found`, and nothing else; cells and steps by their names."""
    cells = {name: k for k, name in enumerate(found.cell_id.tolist())}
    seen = 0
    for sample, ue in enumerate(own.ue_id):
        for step, time in enumerate(own.time_s[sample]):
            row = found.ue_id.index(ue) if ue in found.ue_id else None
            at = [] if row is None else np.flatnonzero(np.isclose(found.time_s[row], time))
            for cell, name in enumerate(own.cell_id.tolist()):
                for key in keys:
                    if not own.present(key)[sample, step, cell]:
                        if len(at) and name in cells:
                            assert not found.present(key)[row, at[0], cells[name]], key
                        continue
                    if key == "serving_cell" and own.value[key][sample, step, cell] == 0.0:
                        continue
                    spot = (row, at[0], cells[name])
                    want = np.ravel(own.value[key][sample, step, cell])[0]
                    got = np.ravel(found.value[key][spot])[0]
                    assert got == want, (key, sample, step, cell)
                    if QUANTITIES[key].indexed:
                        index = np.ravel(own.index[key][sample, step, cell])[0]
                        assert np.ravel(found.index[key][spot])[0] == index
                    seen += 1
    return seen


CONFIGS = st.builds(
    lambda loss, drop, list_, quantised, csi: SequenceConfig(
        report_loss=loss, drop_rsrp=drop, drop_cqi=drop, drop_neighbours=list_,
        quantised=quantised, csi_period_s=csi,
    ),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([0.0, 0.4]),
    st.sampled_from([0.0, 0.5]),
    st.booleans(),
    st.sampled_from([0.2, 0.4]),
)  # fmt: skip


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), config=CONFIGS)
def test_a_table_gives_back_what_was_reported(tmp_path_factory, ending, seed, config):
    own = simulated(seed, config=config).sequences
    path = tmp_path_factory.mktemp("table") / f"reports.{ending}"
    write_sequences(path, own)
    found = read_sequences(path)
    keys = [key for key in FIELD if own.present(key).any()]
    assert same(found, own, [*keys, "serving_cell"]) > 50
    assert found.subcarrier_spacing_hz == 30e3
    assert found.nr_arfcn is not None
    assert set(found.nr_arfcn.tolist()) == {633333}
    named = dict(zip(found.cell_id.tolist(), found.pci.tolist(), strict=True))
    assert named.items() <= {11: 3, 12: 500, 40: 1007, 41: 0, 99: 8}.items()


def test_beams_and_ranks_survive_too(tmp_path):
    own = simulated(beams=True).sequences
    write_sequences(tmp_path / "reports.parquet", own)
    found = read_sequences(tmp_path / "reports.parquet")
    assert found.value["l1_rsrp"].shape[-1] == 1
    assert same(found, own, FIELD) > 200


def test_writing_what_was_read_changes_no_byte(tmp_path):
    write_sequences(tmp_path / "a.csv", simulated(1).sequences)
    first = read_sequences(tmp_path / "a.csv")
    write_sequences(tmp_path / "b.csv", first)
    write_sequences(tmp_path / "c.csv", read_sequences(tmp_path / "b.csv"))
    assert (tmp_path / "b.csv").read_bytes() == (tmp_path / "c.csv").read_bytes()


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), config=CONFIGS)
def test_the_json_form_gives_back_indices_and_lists(tmp_path_factory, seed, config):
    own = simulated(seed, config=replace(config, quantised=True)).sequences
    path = tmp_path_factory.mktemp("json") / "reports.json"
    write_measurements(path, own)
    found = read_measurements(path)
    assert same(found, own, ["ss_rsrp", "ss_rsrq", "ss_sinr", "serving_cell"]) > 20
    assert (found.present("neighbours").sum() >= own.present("neighbours").sum()).all()


def test_the_json_form_has_the_shape_of_a_measurement_report(tmp_path):
    own = simulated(config=SequenceConfig(report_loss=0.0, drop_neighbours=0.0)).sequences
    write_measurements(tmp_path / "r.json", own)
    content = json.loads((tmp_path / "r.json").read_text())
    results = content["ues"][0]["reports"][0]["measResults"]
    serving = results["measResultServingMOList"][0]["measResultServingCell"]
    assert serving["physCellId"] == own.pci[own.serving[0, 0]]
    beside = [one["physCellId"] for one in results["measResultNeighCells"]["measResultListNR"]]
    listed = own.neighbour_list[0, 0]
    assert beside == own.pci[listed[listed >= 0]].tolist()
    quantities = serving["measResult"]["cellResults"]["resultsSSB-Cell"]
    assert set(quantities) <= {"rsrp", "rsrq", "sinr"}


def test_true_places_stand_in_a_file_of_their_own(tmp_path):
    sim = simulated()
    write_sequences(tmp_path / "reports.csv", sim.sequences)
    write_truth(tmp_path / "truth.csv", sim)
    head = (tmp_path / "reports.csv").read_text().splitlines()[0]
    assert "east" not in head
    assert "lon" not in head
    found = read_sequences(tmp_path / "reports.csv")
    truth = read_truth(tmp_path / "truth.csv", found)
    for sample, ue in enumerate(found.ue_id):
        was = sim.sequences.ue_id.index(ue)
        for step in np.flatnonzero(np.isfinite(found.time_s[sample])):
            at = np.argmin(np.abs(sim.sequences.time_s[was] - found.time_s[sample, step]))
            np.testing.assert_allclose(truth.place_m[sample, step], sim.place_m[was, at])
            np.testing.assert_allclose(truth.velocity_m_s[sample, step], sim.velocity_m_s[was, at])
    mixed = tmp_path / "mixed.csv"
    mixed.write_text("time_s,cell_id,ss_rsrp_dbm,true_east_m,true_north_m\n0,1,-80,3,4\n")
    with pytest.raises(ReportsError, match="file of their own"):
        read_sequences(mixed)
    other = simulated(samples=7).sequences
    with pytest.raises(ReportsError, match="no true place of ue5"):
        read_truth(tmp_path / "truth.csv", other)


def test_places_go_by_longitude_and_latitude_and_back(tmp_path):
    sim = simulated()
    place = sim.place_m[..., :2] + 2.0
    own = replace(sim.sequences, reported_m=place)
    write_sequences(tmp_path / "r.csv", own, EMPTY)
    assert "lon,lat" in (tmp_path / "r.csv").read_text().splitlines()[0]
    found = read_sequences(tmp_path / "r.csv", EMPTY)
    assert found.reported_m is not None
    at = np.argmin(np.abs(own.time_s[0] - found.time_s[0, 0]))
    np.testing.assert_allclose(found.reported_m[0, 0], place[0, at], atol=1e-3)
    with pytest.raises(ReportsError, match="name the scene"):
        read_sequences(tmp_path / "r.csv")
    write_sequences(tmp_path / "m.csv", own)
    metres = read_sequences(tmp_path / "m.csv")
    assert metres.reported_m is not None
    np.testing.assert_allclose(metres.reported_m[0, 0], place[0, at])
    write_truth(tmp_path / "t.csv", sim, EMPTY)
    truth = read_truth(tmp_path / "t.csv", found, EMPTY)
    np.testing.assert_allclose(truth.place_m[0, 0], sim.place_m[0, at], atol=1e-3)


def table(tmp_path, text, name="r.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_the_index_wins_over_the_value_with_a_warning(tmp_path):
    path = table(
        tmp_path,
        "time_s,pci,ss_rsrp_idx,ss_rsrp_dbm\n0,1,70,-90\n0,2,70,-86.5\n0,3,,-86.2\n0,4,70,\n",
    )
    with pytest.warns(UserWarning, match=r"disagree in 1 rows, the first in data row 1"):
        found = read_sequences(path)
    assert found.index["ss_rsrp"].ravel().tolist() == [70, 70, 70, 70]
    assert found.value["ss_rsrp"].ravel().tolist() == pytest.approx([-86.5, -86.5, -86.2, -86.5])


def test_field_tools_write_the_upper_edge_of_a_bin(tmp_path):
    path = table(tmp_path, "time_s,pci,ss_rsrp_dbm\n0,1,-87\n0,2,-156\n")
    field = read_sequences(path, rsrp_scale="field")
    assert field.index["ss_rsrp"].ravel().tolist() == [69, 0]
    assert field.value["ss_rsrp"].ravel().tolist() == [-87.5, -156.5]
    assert read_sequences(path).index["ss_rsrp"].ravel().tolist() == [70, 1]


def test_drive_tests_come_in_by_a_map_of_columns(tmp_path):
    path = table(
        tmp_path,
        "Time,Lat,Lon,PCI,RSRP,RSRQ,SINR\n1.5,49.4,8.69,17,-87,-11,12\n2.5,49.4,8.7,17,-88,,\n",
    )
    names = {"time_s": "Time", "lat": "Lat", "lon": "Lon", "ss_rsrp_dbm": "RSRP",
             "ss_rsrq_db": "RSRQ", "ss_sinr_db": "SINR"}  # fmt: skip
    found = read_sequences(path, EMPTY, columns=names, rsrp_scale="field")
    assert found.time_s.tolist() == [[1.5, 2.5]]
    assert found.pci.tolist() == [17]
    assert found.reason["ss_rsrq"].ravel().tolist() == [PRESENT, DROPPED]
    assert found.reported_m is not None
    with pytest.raises(ReportsError, match="no column rssi"):
        read_sequences(path, EMPTY, columns={"ss_rsrp_dbm": "RSSI"})


def test_moments_may_be_iso_8601(tmp_path):
    path = table(
        tmp_path,
        "timestamp_utc,pci,cqi\n2026-11-27T04:19:20.5Z,1,3\n2026-11-27T05:19:21+01:00,1,4\n",
    )
    found = read_sequences(path)
    want = datetime(2026, 11, 27, 4, 19, 20, 500_000, tzinfo=UTC).timestamp()
    np.testing.assert_allclose(found.time_s[0], [want, want + 0.5])
    bad = table(tmp_path, "timestamp_utc,pci,cqi\nyesterday,1,3\n", "bad.csv")
    with pytest.raises(ReportsError, match=r"timestamp_utc is no ISO 8601 time in data row 1"):
        read_sequences(bad)


def test_missing_values_get_the_likely_reason(tmp_path):
    path = table(
        tmp_path,
        "ue_id,time_s,cell_id,is_serving,ss_rsrp_idx,ss_sinr_idx,cqi,timing_advance\n"
        "a,0,1,true,80,60,5,3\na,0,2,false,70,,,\na,1,1,true,80,,,\nb,0,1,1,,,7,\n",
    )
    found = read_sequences(path)
    assert found.ue_id == ("a", "b")
    assert found.reason["ss_sinr"][0, 0].tolist() == [PRESENT, DROPPED]
    assert found.reason["ss_rsrp"][0, 1].tolist() == [PRESENT, BELOW_DETECTION]
    assert found.reason["ss_rsrp"][1, 0].tolist() == [NOT_CONFIGURED] * 2
    assert found.reason["cqi"][0].tolist() == [[PRESENT, NOT_CONFIGURED], [NOT_CONFIGURED] * 2]
    assert found.reason["neighbours"][0, 0].tolist() == [NOT_CONFIGURED, PRESENT]
    assert found.neighbour_list[0, 0, 0] == 1
    assert found.serving.tolist() == [[0, 0], [0, -1]]
    assert np.isnan(found.time_s[1, 1])


HEAD = (
    "ue_id,report_id,time_s,cell_id,pci,is_serving,ss_rsrp_idx,ss_sinr_db,scs_khz,neighbour_rank\n"
)
BAD = {
    "ss_rsrp_idx is no whole number from 0 to 127 in data row 2": (
        "a,0,0,1,1,,80,,30,",
        "a,0,0,2,2,,128,,30,",
    ),
    "ss_rsrp_idx is neither empty nor a finite number in data row 1": ("a,0,0,1,1,,strong,,30,",),
    "ss_sinr_db is not between -150 and 100 in data row 1": ("a,0,0,1,1,,80,1000,30,",),
    "time_s is empty or not a finite number in data row 1": ("a,0,,1,1,,80,,30,",),
    "pci is not between 0 and 1007 in data row 1": ("a,0,0,1,1008,,80,,30,",),
    "an earlier row holds is in data row 2": ("a,0,0,1,1,,80,,30,", "a,0,0,1,1,,81,,30,"),
    "several serving cells in one report in data rows 1, 2": (
        "a,0,0,1,1,true,80,,30,",
        "a,0,0,2,2,true,81,,30,",
    ),
    "is_serving is neither true nor false in data row 1": ("a,0,0,1,1,maybe,80,,30,",),
    "cell_id with several pci in data row 2": ("a,0,0,1,1,,80,,30,", "a,1,1,1,2,,80,,30,"),
    "two report_id at one time of a UE in data row 2": ("a,0,0,1,1,,80,,30,", "a,1,0,2,2,,80,,30,"),
    "one report_id at several times in data row": ("a,0,0,1,1,,80,,30,", "a,0,1,1,1,,80,,30,"),
    "scs_khz is not the same above 0 throughout in data row 2": (
        "a,0,0,1,1,,80,,30,",
        "a,1,1,1,1,,80,,15,",
    ),
    "the rank of a neighbour is out of order in data row 2": (
        "a,0,0,1,1,,80,,30,1",
        "a,0,0,2,2,,80,,30,3",
    ),
    "ue_id is empty in data row 1": (",0,0,1,1,,80,,30,",),
    "no report below": (),
}


@pytest.mark.parametrize("what", BAD, ids=lambda what: what[:30])
def test_bad_tables_are_refused_by_row_and_column(tmp_path, what):
    with pytest.raises(ReportsError, match=what):
        read_sequences(table(tmp_path, "\n".join([HEAD, *BAD[what]]) + "\n"))


def test_tables_without_what_is_needed_are_refused(tmp_path):
    with pytest.raises(ReportsError, match="no time column"):
        read_sequences(table(tmp_path, "pci,cqi\n1,2\n"))
    with pytest.raises(ReportsError, match="no cell column"):
        read_sequences(table(tmp_path, "time_s,cqi\n1,2\n"))
    with pytest.raises(ReportsError, match="no measurement"):
        read_sequences(table(tmp_path, "time_s,pci\n1,2\n"))
    with pytest.raises(ReportsError, match="only one of east_m, north_m"):
        read_sequences(table(tmp_path, "time_s,pci,cqi,east_m,north_m\n1,2,3,4,\n"))
    with pytest.raises(DataError, match=r"\.csv or \.parquet"):
        write_sequences(tmp_path / "r.xlsx", simulated().sequences)


def test_broken_json_is_refused_by_its_place(tmp_path):
    own = simulated(config=SequenceConfig(report_loss=0.0)).sequences
    path = tmp_path / "r.json"
    write_measurements(path, own)
    whole = path.read_text()

    def spoilt(change):
        content = json.loads(whole)
        change(content["ues"][1]["reports"][2])
        path.write_text(json.dumps(content))
        with pytest.raises(ReportsError, match=r"ues\[1\]\.reports\[2\]"):
            read_measurements(path)

    def cell(report):
        return report["measResults"]["measResultServingMOList"][0]["measResultServingCell"]

    spoilt(lambda report: report.pop("time_s"))
    spoilt(lambda report: report.update(time_s="now"))
    spoilt(lambda report: report.pop("measResults"))
    spoilt(lambda report: cell(report).update(physCellId=1008))
    spoilt(lambda report: cell(report)["measResult"]["cellResults"].pop("resultsSSB-Cell"))
    spoilt(
        lambda report: cell(report)["measResult"]["cellResults"]["resultsSSB-Cell"].update(rsrp=-80)
    )
    spoilt(lambda report: report["measResults"]["measResultServingMOList"].append({}))
    path.write_text("{")
    with pytest.raises(ReportsError, match="no readable JSON"):
        read_measurements(path)
    path.write_text("[]")
    with pytest.raises(ReportsError, match="format"):
        read_measurements(path)
    with pytest.raises(DataError, match="by PCI"):
        write_measurements(path, replace(own, pci=np.array([1, 2, -1, 4, 5])))


def test_the_example_of_the_documentation_is_read(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "data-formats.md").read_text()
    example = text.split("```json\n")[1].split("```")[0]
    path = tmp_path / "r.json"
    path.write_text(example)
    found = read_measurements(path)
    assert found.cell_id[found.serving[0, 0]] == 11
    assert found.index["ss_rsrp"].ravel().tolist() == [70, 66]
