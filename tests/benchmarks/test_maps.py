import dataclasses
import json
from dataclasses import dataclass
from typing import final

import numpy as np
import pytest

from hertzmap.benchmarks import maps, methods, results, worlds
from hertzmap.benchmarks.maps import Contestant
from hertzmap.benchmarks.runlog import RunLog
from hertzmap.benchmarks.tables import load_cell
from hertzmap.core.errors import ConfigError, ReportsError
from hertzmap.core.posteriors import MapPosterior
from hertzmap.estimation.base import AbstractEstimator

CELL = load_cell("default")
KEYS = worlds.city_keys(("heidelberg", "baltimore"), 1)


@dataclass(frozen=True)
class LevelConfig:
    offset_db: float = 0.0
    order: int = 1


@final
@dataclass(frozen=True)
class Level(AbstractEstimator):
    """Says that the map is the mean of the reports everywhere."""

    config: LevelConfig = LevelConfig()
    seen: list = dataclasses.field(default_factory=list, repr=False, compare=False)

    def estimate(self, reports, site, *, seed):
        self.seen.append(reports.power_dbm)
        if self.config.order == 13:
            msg = "no map today"
            raise ReportsError(msg)
        level = float(reports.power_dbm.mean()) + self.config.offset_db + 0.0 * seed
        flat = np.full((1, *site.grid.shape), level)
        return MapPosterior(site.grid, flat, np.zeros(1), np.full_like(flat, 5.0))

    @classmethod
    def from_preset(cls, preset):
        del preset
        return cls()


def level(name: str, **options) -> Contestant:
    return Contestant(name, Level(LevelConfig(**options), []))


def seen_by(contestant: Contestant) -> list[np.ndarray]:
    assert isinstance(contestant.estimator, Level)
    return contestant.estimator.seen


@pytest.mark.usefixtures("tiny")
def test_all_methods_see_the_same_reports_and_each_address_its_own(tmp_path):
    first, second = level("kriging:tuned"), level("kriging:as_published", offset_db=9.0)
    maps.run_cell(CELL, KEYS, (0, 1), [first, second], RunLog(tmp_path / "a.jsonl"))
    ours, theirs = seen_by(first), seen_by(second)
    assert len(ours) == 4
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert len({seen.tobytes() for seen in ours}) == 4


@pytest.mark.usefixtures("tiny")
def test_a_finished_run_is_not_run_again_and_a_cut_one_is(tmp_path):
    log = RunLog(tmp_path / "a.jsonl")
    maps.run_cell(CELL, KEYS, (0,), [level("kriging:tuned")], log)
    assert len(log.read()) == 2
    again = level("kriging:tuned")
    maps.run_cell(CELL, KEYS, (0,), [again], log)
    assert seen_by(again) == []
    log.path.write_bytes(log.path.read_bytes()[:-30])
    maps.run_cell(CELL, KEYS, (0,), [again], log)
    assert len(seen_by(again)) == 1
    assert len(log.read()) == 2


@pytest.mark.usefixtures("tiny")
def test_another_build_or_cell_or_truth_is_run_anew(tmp_path, world, monkeypatch):
    log = RunLog(tmp_path / "a.jsonl")
    maps.run_cell(CELL, KEYS, (0,), [level("kriging:tuned")], log)
    rebuilt = level("kriging:tuned", offset_db=1.0)
    maps.run_cell(CELL, KEYS, (0,), [rebuilt], log)
    assert len(seen_by(rebuilt)) == 2
    noisier = dataclasses.replace(CELL, sampling=dataclasses.replace(CELL.sampling, snr_db=0.0))
    maps.run_cell(noisier, KEYS, (0,), [rebuilt], log)
    assert len(seen_by(rebuilt)) == 4
    brighter = dataclasses.replace(world, scored_db=world.scored_db + 1.0)
    monkeypatch.setattr(worlds, "load", lambda key: dataclasses.replace(brighter, key=key))
    maps.run_cell(CELL, KEYS, (0,), [rebuilt], log)
    assert len(seen_by(rebuilt)) == 6
    kept = maps.aggregate(CELL, log.read(), "test", 2)
    assert kept.header["runs"] == {"kriging:tuned": 2}


@pytest.mark.usefixtures("tiny")
def test_a_method_that_refuses_is_warned_about_and_counted_as_missing(tmp_path, caplog):
    log = RunLog(tmp_path / "a.jsonl")
    maps.run_cell(CELL, KEYS, (0,), [level("kriging:tuned", order=13)], log)
    assert log.read() == ()
    assert "no map today" in caplog.text


@pytest.mark.usefixtures("tiny")
def test_aggregation_means_over_seeds_then_maps_with_paired_differences(tmp_path):
    log = RunLog(tmp_path / "a.jsonl")
    better, worse = level("radiodiff_inv2:quick"), level("kriging:tuned", offset_db=30.0)
    maps.run_cell(CELL, KEYS, (0, 1), [better, worse], log)
    runs = log.read()
    found = maps.aggregate(CELL, runs, "test", 4)
    per_map = [
        np.mean([r.metrics["rmse_db"] for r in runs if r.method == worse.method and r.world == w])
        for w in ("heidelberg/0", "baltimore/0")
    ]
    row = found.row("kriging:tuned", "rmse_db")
    assert row is not None and row.n == 2 and row.unit == "dB"
    assert row.mean == pytest.approx(np.mean(per_map), abs=1e-5)
    gap = found.difference("radiodiff_inv2:quick", "kriging:tuned", "rmse_db")
    assert gap is not None and gap.n == 2 and gap.low is not None and gap.high is not None
    assert gap.low <= gap.mean <= gap.high < 0
    assert found.header["same_engine"] is True
    assert found.header["runs"] == {"radiodiff_inv2:quick": 4, "kriging:tuned": 4}
    published = found.row("kriging:tuned", "paper_psnr_db")
    assert published is not None and published.published == 21.3934
    assert set(found.header["published_rows"]) == {"kp 0.05", "SNR 5 dB", "drift 0.8"}


@pytest.mark.usefixtures("tiny")
def test_differences_use_only_runs_both_methods_have(tmp_path):
    log = RunLog(tmp_path / "a.jsonl")
    maps.run_cell(CELL, KEYS, (0,), [level("kriging:tuned")], log)
    maps.run_cell(CELL, KEYS[:1], (0, 1), [level("nearest:default", offset_db=3.0)], log)
    found = maps.aggregate(CELL, log.read(), "test", 2)
    gap = found.difference("nearest:default", "kriging:tuned", "psnr_db")
    assert gap is not None and gap.n == 1 and gap.low is None


@pytest.mark.usefixtures("tiny")
def test_run_writes_the_log_and_the_result_file(tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "build", lambda _: Level())
    out = tmp_path / "maps"
    written = maps.run(["default"], out, ["kriging:tuned"], maps_per_city=1, limit=2, seeds=1)
    assert written == (out / "default.json",)
    assert len((out / "raw" / "default.jsonl").read_text().splitlines()) == 2
    content = json.loads(written[0].read_text())
    assert {"method", "metric", "unit", "mean", "se", "n", "published"} <= set(
        content["results"][0]
    )
    assert content["header"]["planned_runs"] == 60 * len(CELL.report_seeds)
    assert results.read(written[0]).methods() == ("kriging:tuned",)
    validation = maps.run(["default"], out, ["kriging:tuned"], 1, 1, "validation", 1)
    assert validation == (out / "default.validation.json",)


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="validation"):
        maps.run(["default"], tmp_path, split="train")


def test_options_change_the_configuration_and_the_fingerprint():
    plain = Level()
    changed = methods.with_options(plain, (("offset_db", "2.5"), ("order", "3")))
    assert isinstance(changed, Level)
    assert changed.config == LevelConfig(2.5, 3)
    assert methods.fingerprint(changed) != methods.fingerprint(plain)
    assert methods.fingerprint(Level()) == methods.fingerprint(plain)


@pytest.mark.parametrize("option", [("colour", "red"), ("order", "many")])
def test_an_option_that_does_not_fit_is_refused(option):
    with pytest.raises(ConfigError, match=option[0]):
        methods.with_options(Level(), (option,))


@pytest.mark.parametrize("text", ["kriging", "kriging:", ":tuned", "a:b:c", "a:b:c="])
def test_a_method_of_another_form_is_refused(text):
    with pytest.raises(ConfigError, match="name:preset"):
        methods.parse(text)
