import json

import pytest

from hertzmap.apps import demo
from hertzmap.measurement.sampling import SamplingConfig


@pytest.mark.slow
def test_the_demo_writes_a_whole_report_on_bundled_data(tmp_path):
    options = demo.DemoOptions(
        ours="kriging:as_published",
        size_m=128.0,
        spacing_m=2.0,
        cells=1,
        sampling=SamplingConfig(rate_kp=0.05),
    )
    steps = []
    summary = demo.run(tmp_path, seed=1, options=options, tell=steps.append)
    assert json.loads((tmp_path / "report.json").read_text()) == summary
    methods = {"kriging:as_published", "kriging:tuned"}
    assert set(summary["district"]["scores"]) == methods
    assert set(summary["campus"]["scores"]) == methods | {"nearest:default"}
    assert summary["campus"]["left_out_reports"]["7"] > 20
    assert 0.0 < summary["campus"]["covered_share"]["7"] < 1.0
    html = (tmp_path / "report.html").read_text()
    assert "Heidelberg, never trained on" in html and "cell 7" in html
    assert html.count("<img") == 4 and "OpenStreetMap" in html and "jakthra" in html
    assert {path.name for path in tmp_path.glob("*.tif")} == {
        "campus-cell-7.tif",
        "district-kriging-as-published.tif",
        "district-kriging-tuned.tif",
    }
    assert (tmp_path / "overview.png").stat().st_size > 10_000 and steps
