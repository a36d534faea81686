import dataclasses

import pytest

from hertzmap.benchmarks import render, results
from hertzmap.benchmarks.results import PairedDifference, ResultFile, ResultRow
from hertzmap.benchmarks.tables import PAPER_METHODS, load_cell
from hertzmap.core.errors import DataError

HEADLINE = load_cell("default").headline


def a_cell(psnr: float = 27.5) -> ResultFile:
    header = {
        "headline": HEADLINE,
        "baseline": "kriging:tuned",
        "sampling": dataclasses.asdict(load_cell("default").sampling),
        "same_engine": True,
        "same_operator": False,
        "planned_runs": 72,
        "runs": {HEADLINE: 24, "kriging:tuned": 72},
        "measured_on": {HEADLINE: ["a processor"]},
    }
    rows = (
        ResultRow("kriging:tuned", "psnr_db", "dB", 25.125, 0.25, 24),
        ResultRow("kriging:tuned", "paper_psnr_db", "dB", 26.5, 0.25, 24, 21.3934),
        ResultRow(HEADLINE, "psnr_db", "dB", psnr, 0.5, 24),
        ResultRow(HEADLINE, "paper_psnr_db", "dB", 28.75, 0.5, 24, 31.3158),
        ResultRow(HEADLINE, "seconds", "s", 12.34, 1.0, 24),
    )
    gap = PairedDifference(HEADLINE, "kriging:tuned", "psnr_db", "dB", 2.5, 2.0, 3.0, 24)
    return ResultFile(header, rows, (gap,))


@pytest.fixture
def checkout(tmp_path):
    results.write(tmp_path / "results" / "tables" / "default.json", a_cell())
    blocks = [f"<!-- results:{name} -->\nold\n<!-- /results -->" for name in render.TABLES]
    blocks.append("<!-- results:tables/default -->\n<!-- /results -->")
    blocks.append("<!-- results:campus/default -->\n<!-- /results -->")
    (tmp_path / "README.md").write_text("# Title\n\n" + "\n\nwords\n\n".join(blocks) + "\nend\n")
    return tmp_path


def test_every_table_is_rendered_and_text_around_it_stays(checkout):
    assert render.stale(checkout) == (checkout / "README.md",)
    assert render.run(checkout) == (checkout / "README.md",)
    text = (checkout / "README.md").read_text()
    assert text.startswith("# Title\n\n") and text.endswith("\nend\n")
    assert "old" not in text
    assert text.count("\nwords\n") == len(render.TABLES) + 1
    assert render.stale(checkout) == ()
    assert render.run(checkout) == ()


def test_a_new_result_makes_the_document_stale(checkout):
    render.run(checkout)
    results.write(checkout / "results" / "tables" / "default.json", a_cell(psnr=29.0))
    assert render.stale(checkout) == (checkout / "README.md",)


def test_published_figures_stand_beside_ours_in_thirteen_rows(checkout):
    lines = render.table("maps-paper-psnr", checkout / "results").splitlines()
    head = next(line for line in lines if line.startswith("| setting"))
    assert all(f"published: {name}" in head for name in PAPER_METHODS.values())
    rows = [line for line in lines if line.startswith("| ") and line != head and "---" not in line]
    assert len(rows) == 13
    default = [row for row in rows if "28.75 ± 0.50" in row]
    assert [row.split("|")[1].strip() for row in default] == ["kp 0.05", "SNR 5 dB", "drift 0.8"]
    assert "| 31.32 |" in default[0] and "| 31.33 |" in default[1]


def test_the_table_of_record_prints_the_paired_difference_and_the_flags(checkout):
    text = render.table("maps-psnr", checkout / "results")
    assert "+2.50 (+2.00 to +3.00)" in text
    assert "`same_engine: true`" in text and "same_operator" not in text
    assert "of 72 planned runs fewer are done for combined (default) (" in text
    assert "| mean rank | 1.0 | 2.0 | – |" in text and "| **27.50 ± 0.50** |" in text


def test_a_mismatch_case_names_the_best_tuned_baseline(checkout):
    results.write(checkout / "results" / "mismatch" / "streets.json", a_cell())
    text = render.table("mismatch", checkout / "results")
    assert "| streets | 24 | 27.50 ± 0.50 | Kriging (tuned) | 25.12 ± 0.25 | +2.50" in text


def test_any_result_file_has_a_plain_table(checkout):
    text = render.table("tables/default", checkout / "results")
    assert "| Kriging (tuned) | 25.12 ± 0.25 |" in text
    assert render.table("campus/default", checkout / "results") == "*Not run yet.*"


def test_an_unknown_table_is_refused(checkout):
    with pytest.raises(DataError, match="maps-default"):
        render.table("mpas-default", checkout / "results")


def test_the_documents_of_this_checkout_show_the_results_at_hand():
    assert render.stale() == (), "run `hertzmap bench tables` and commit the documents"


def test_the_campus_has_a_row_for_each_share_and_method(tmp_path):
    rows = tuple(
        ResultRow(method, f"{metric}@{share}", "dB", 8.0 + share / 100, 0.5, 4)
        for method in (HEADLINE, "kriging:tuned")
        for share in (10, 80)
        for metric in ("rmse_db", "rmse_place_db", "coverage90")
    )
    gap = PairedDifference(HEADLINE, "kriging:tuned", "rmse_db@10", "dB", -1.5, -2.0, -1.0, 4)
    found = ResultFile({"settings": {"shares": [0.1, 0.8]}}, rows, (gap,))
    results.write(tmp_path / "results" / "campus" / "rsrp.json", found)
    lines = render.table("campus-rsrp", tmp_path / "results").splitlines()
    assert len(lines) == 2 + 4 + 2
    assert "| 10 % |" in lines[2] and "-1.50 (-2.00 to -1.00)" in lines[2]
    assert lines[3].split("|")[4].strip() == "–"


def test_measured_cases_name_splits_and_the_best_tuned_baseline(tmp_path):
    rows = tuple(
        ResultRow(method, "rmse_db@10", "dB", mean, 0.5, 4)
        for method, mean in ((HEADLINE, 7.0), ("kriging:tuned", 9.0), ("kriging:path_loss", 8.0))
    )
    gap = PairedDifference(HEADLINE, "kriging:path_loss", "rmse_db@10", "dB", -1.0, -1.5, -0.5, 4)
    header = {"settings": {"shares": [0.1]}, "runs_by_share": {HEADLINE: [12]}}
    found = ResultFile(header, rows, (gap,))
    results.write(tmp_path / "results" / "mismatch" / "utah.json", found)
    text = render.table("measured", tmp_path / "results")
    assert "| utah, 10 % known | 12 | 7.00 | Kriging (path loss) | 8.00 | -1.00" in text
