import json

import numpy as np
import pytest
from PIL import Image

from hertzmap.core.errors import DataError
from hertzmap.core.units import GreyScale
from hertzmap.datasets.radiomapseer import HEIGHT_M, read_maps


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)


@pytest.fixture
def released(tmp_path):
    """A 4 x 6 environment in the released layout: wall in the NORTH-WEST, antenna in the north."""
    walls = np.zeros((4, 6))
    walls[0, 0] = 255
    gain = np.full((4, 6), 102)
    gain[0, 3] = 255
    gain[3, 5] = 0
    gain[0, 0] = 51
    save(tmp_path / "png/buildings_complete/7.png", walls)
    save(tmp_path / "gain/DPM/7_2.png", gain)
    return tmp_path


def test_the_markers_of_the_file_s_north_end_up_in_the_last_row(released):
    maps = read_maps(released, map_id=7)
    assert not maps.site.free[3, 0] and maps.site.free.sum() == 23
    assert maps.grey[0, 3, 3] == 1.0
    assert maps.radio_map.transmitters[0].place_m == (3.5, 3.5, HEIGHT_M)
    assert not maps.radio_map.valid[0, 0, 5]  # the dark pixel of the south-east


def test_grey_becomes_path_gain_on_the_fixed_scale(released):
    maps = read_maps(released, map_id=7)
    gain = maps.radio_map.path_gain_db[0]
    assert gain[3, 3] == pytest.approx(GreyScale().max_db)
    assert gain[1, 1] == pytest.approx(-147.0 + 99.16 * 102 / 255)


def test_walls_and_dark_cells_are_masked_but_the_raw_picture_stays(released):
    maps = read_maps(released, map_id=7)
    assert np.isnan(maps.radio_map.path_gain_db[0][~maps.radio_map.valid[0]]).all()
    assert not maps.radio_map.valid[0, 3, 0] and maps.grey[0, 3, 0] == pytest.approx(0.2)


def test_an_antenna_picture_wins_over_the_brightest_pixel(released):
    antenna = np.zeros((4, 6))
    antenna[3, 1] = 255
    save(released / "png/antennas/7_2.png", antenna)
    place = read_maps(released, map_id=7).radio_map.transmitters[0].place_m
    assert place[:2] == (1.5, 0.5)


def test_the_stated_pixel_wins_over_both(released):
    stated = {"transmitter_row_col_gray": {"7_2.png": [1, 4, 255]}}
    (released / "transmitters.json").write_text(json.dumps(stated))
    place = read_maps(released, map_id=7).radio_map.transmitters[0].place_m
    assert place[:2] == (4.5, 2.5)


def test_the_bundled_maps_have_their_brightest_pixel_at_the_transmitter():
    maps = read_maps()
    numbers = [transmitter.name for transmitter in maps.radio_map.transmitters]
    assert numbers == [f"0_{k}" for k in (0, 1, 10, 11, 12, 13, 14, 15, 16, 17)]
    for grey, transmitter in zip(maps.grey, maps.radio_map.transmitters, strict=True):
        row, col = maps.site.grid.cell(np.array(transmitter.place_m[:2]))
        assert grey[row, col] == 1.0 and maps.site.free[row, col]


def test_the_bundled_antenna_picture_agrees_with_the_stated_place():
    from hertzmap.datasets.remote import find

    stored = np.asarray(Image.open(find("radiomapseer/antenna_0_0.png")))
    row, col = np.argwhere(np.flipud(stored) == 255)[0]
    place = read_maps(antennas=[0]).radio_map.transmitters[0].place_m
    assert place[:2] == (col + 0.5, row + 0.5)


def test_what_is_missing_is_named(released):
    with pytest.raises(DataError, match=r"holds no map 8_\*\.png"):
        read_maps(released, map_id=8)
    with pytest.raises(DataError, match=r"cannot read the picture .*7_3\.png"):
        read_maps(released, map_id=7, antennas=[3])
    (released / "png/buildings_complete/7.png").unlink()
    with pytest.raises(DataError, match="is it the root"):
        read_maps(released, map_id=7)


def test_broken_pictures_are_named(released):
    (released / "gain/DPM/7_2.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="copy it again"):
        read_maps(released, map_id=7)
    save(released / "gain/DPM/7_2.png", np.zeros((5, 6)))
    with pytest.raises(DataError, match=r"\(5, 6\), its buildings \(4, 6\)"):
        read_maps(released, map_id=7)
    save(released / "gain/DPM/7_2.png", np.zeros((4, 6, 3)))
    with pytest.raises(DataError, match="8-bit grey"):
        read_maps(released, map_id=7)
    (released / "transmitters.json").write_text("[]")
    save(released / "gain/DPM/7_2.png", np.zeros((4, 6)))
    with pytest.raises(DataError, match="delete or mend"):
        read_maps(released, map_id=7)
