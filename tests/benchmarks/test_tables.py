import pytest
import yaml

from hertzmap.benchmarks.tables import (
    CELLS,
    METRICS,
    PAPER_METHODS,
    PRINTED_ROWS,
    PUBLISHED,
    load_cell,
    printed_rows,
    project_root,
    published,
)
from hertzmap.core.errors import ConfigError


def test_the_paper_prints_eleven_cells_as_thirteen_rows():
    assert len(PRINTED_ROWS) == 13
    assert len(set(PRINTED_ROWS.values())) == 11
    assert printed_rows("default") == ("kp 0.05", "SNR 5 dB", "drift 0.8")


def test_every_published_table_has_all_rows_and_methods():
    assert set(PUBLISHED) == {"paper_psnr_db", "paper_ssim", "paper_nmse", "paper_lpips"}
    for metric, rows in PUBLISHED.items():
        assert metric in METRICS
        assert list(rows) == list(PRINTED_ROWS)
        assert all(len(figures) == len(PAPER_METHODS) for figures in rows.values())


def test_some_published_figures_as_printed():
    assert published("kp 0.005", "paper_psnr_db", "radiodiff_inv2") == 23.8166
    assert published("drift 3.2", "paper_nmse", "rme_gan:tuned") == 0.139965
    assert published("SNR 0 dB", "paper_ssim", "kriging:tuned") == 0.4408
    assert published("kp 0.1", "paper_lpips", "radiounet") == 0.4479
    assert published("kp 0.05", "psnr_db", "kriging") is None
    assert published("kp 0.05", "paper_psnr_db", "inverse_distance") is None


def test_published_gains_follow_from_the_figures():
    # The paper prints gains over the best other method: +18.92 % and +35.18 % of PSNR.
    for row, gain in (("kp 0.005", 18.92), ("SNR 0 dB", 35.18), ("drift 3.2", 24.43)):
        ours, *others = PUBLISHED["paper_psnr_db"][row]
        assert 100 * (ours / max(others) - 1) == pytest.approx(gain, abs=0.006)


@pytest.mark.parametrize("cell", CELLS)
def test_each_cell_has_the_settings_its_name_says(cell):
    config = load_cell(cell)
    sampling = config.sampling
    said = {"kp": 0.05, "snr": 5.0, "drift": 0.8}
    if cell != "default":
        factor, value = cell.removeprefix("radiomapseer-").rsplit("-", 1)
        said[factor] = float(value)
    assert (sampling.rate_kp, sampling.snr_db, sampling.drift_m) == tuple(said.values())
    assert (config.world == "radiomapseer") == cell.startswith("radiomapseer")


def test_the_default_cell_compares_the_four_data_terms():
    terms = {m.rsplit("=", 1)[1] for m in load_cell("default").methods if "data_term" in m}
    assert terms == {"naive", "paper", "moment", "mixture"}


@pytest.mark.parametrize(
    "change",
    [
        {"colour": "red"},
        {"sampling": {"rate_kp": 0.05, "snr": 5.0}},
        {"sampling": {"rate_kp": "0.05"}},
        {"sampling": {"rate_kp": 7.0}},
        {"report_seeds": []},
        {"world": "moon"},
        {"cities": {"test": ["geneva"], "validation": ["mumbai_worli"]}},
        {"cities": {}},
        {"headline": "amortised_unet:quick"},
        {"cell": "other"},
        {"methods": "kriging:tuned"},
    ],
)
def test_a_wrong_cell_is_refused(tmp_path, change):
    settings = yaml.safe_load((project_root() / "configs/maps/default.yaml").read_text())
    (tmp_path / "default.yaml").write_text(yaml.safe_dump({**settings, **change}))
    with pytest.raises(ConfigError):
        load_cell("default", tmp_path)


def test_an_unknown_cell_is_named_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"kp-0\.005"):
        load_cell("kp-0.5")
