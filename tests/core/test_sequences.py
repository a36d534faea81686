"""A MeasurementSequence checks itself; indices and values are two names of one thing."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hertzmap.core import sequences
from hertzmap.core.sequences import (
    BELOW_DETECTION,
    FEATURE_SETS,
    NO_INDEX,
    PRESENT,
    QUANTITIES,
    MeasurementSequence,
    PathTable,
)

GREATEST = {"ss_rsrp": 127, "ss_rsrq": 127, "ss_sinr": 127, "phr": 63}
GREATEST |= {key: one.most for key, one in QUANTITIES.items() if key != "phr" and one.most}


@given(st.sampled_from(sorted(GREATEST)), st.data())
def test_an_index_survives_its_value(key, data):
    index = np.array([data.draw(st.integers(0, GREATEST[key])), NO_INDEX])
    value = sequences.decoded(key, index)
    assert np.isnan(value[1])
    assert sequences.index_of(key, value).tolist() == index.tolist()


@given(st.integers(16, 113), st.lists(st.integers(0, 15), min_size=3, max_size=3))
def test_indices_of_beams_survive_their_values(best, below):
    index = np.array([[best, *sorted(below)], [best, *sorted(below)[:2], NO_INDEX]])
    value = sequences.decoded("l1_rsrp", index)
    assert sequences.index_of("l1_rsrp", value).tolist() == index.tolist()


def small(**changes):
    """Two UEs, two steps, three cells; the third cell is not heard."""
    shape = (2, 2, 3)
    heard = np.zeros(shape, np.uint8)
    heard[..., 2] = BELOW_DETECTION
    index = np.where(heard == PRESENT, 70, NO_INDEX).astype(np.int16)
    serving = np.zeros(shape, np.float32)
    serving[..., 1] = 1.0
    rank = np.full(shape, NO_INDEX, np.int16)
    rank[..., 0] = 1
    state = {
        "ss_rsrp": sequences.decoded("ss_rsrp", index),
        "serving_cell": serving,
        "neighbours": sequences.decoded("neighbours", rank),
    }
    own = MeasurementSequence(
        ("a", "b"),
        np.array([[0.0, 0.2], [1.0, np.nan]]),
        np.array([7, 8, 9]),
        np.array([1, 2, 1007]),
        state,
        {"ss_rsrp": index, "neighbours": rank},
        {
            "ss_rsrp": heard,
            "serving_cell": np.zeros(shape, np.uint8),
            "neighbours": np.where(rank > 0, PRESENT, BELOW_DETECTION).astype(np.uint8),
        },
    )
    return replace(own, **changes)


def test_what_is_asked_most_is_there():
    own = small()
    assert own.shape == (2, 2, 3)
    assert own.keys == ("ss_rsrp", "serving_cell", "neighbours")
    assert own.serving.tolist() == [[1, 1], [1, 1]]
    assert own.neighbour_list[0, 0].tolist() == [0, *[-1] * 7]
    assert own.stacked_reason.shape == (2, 2, 3, 3)
    assert own.select(np.array([1])).ue_id == ("b",)


def test_no_field_holds_a_true_place():
    assert not [one.name for one in fields(MeasurementSequence) if "true" in one.name]
    assert not {"position", "velocity"} & {one.name for one in fields(MeasurementSequence)}


def test_feature_sets_know_their_layers():
    assert not [key for key in FEATURE_SETS["phy+mac"] if QUANTITIES[key].layer == "rt"]
    assert set(FEATURE_SETS["field"]) < set(FEATURE_SETS["phy+mac"]) < set(QUANTITIES)


def changed(mapping, key, where, number):
    values = mapping[key].copy()
    values[where] = number
    return {**mapping, key: values}


def test_contradictions_are_refused_in_words():
    own = small()
    with pytest.raises(ValueError, match="finite where present"):
        small(value=changed(own.value, "ss_rsrp", (0, 0, 0), np.nan))
    with pytest.raises(ValueError, match="finite where present"):
        small(reason=changed(own.reason, "ss_rsrp", (0, 0, 2), PRESENT))
    with pytest.raises(ValueError, match="index and value disagree"):
        small(index=changed(own.index, "ss_rsrp", (1, 1, 0), 71))
    with pytest.raises(ValueError, match="at most one cell serves"):
        small(value=changed(own.value, "serving_cell", (0, 0, 2), 1.0))
    with pytest.raises(ValueError, match="ranked 1, 2, 3"):
        small(
            value=changed(own.value, "neighbours", (0, 0, 0), 2.0),
            index=changed(own.index, "neighbours", (0, 0, 0), 2),
        )
    with pytest.raises(ValueError, match="unknown reason"):
        small(reason=changed(own.reason, "ss_rsrp", (0, 0, 2), 9))
    with pytest.raises(ValueError, match="rise within"):
        small(time_s=np.array([[0.2, 0.1], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="at the end only"):
        small(time_s=np.array([[np.nan, 0.1], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="pci must lie"):
        small(pci=np.array([1, 2, 1008]))
    with pytest.raises(ValueError, match="cell_id must differ"):
        small(cell_id=np.array([1, 1, 2]))
    with pytest.raises(ValueError, match="no quantity 'rssi'"):
        small(value={**own.value, "rssi": own.value["ss_rsrp"]})


def test_a_table_of_paths_fits_its_links():
    few = np.zeros(2, np.float32)
    with pytest.raises(ValueError, match="3 paths"):
        PathTable(np.array([0, 1, 3]), *[few] * 7)
    table = PathTable(np.array([0, 1, 2]), *[few] * 7)
    with pytest.raises(ValueError, match="one slice for each"):
        small(paths=table)
