import re

import numpy as np

from hertzmap.apps import plots, report
from hertzmap.apps.report import Fact, Page, Picture, Section, Table


def page_of(*blocks):
    section = Section("Maps & <figures>", ("5 < 6 dB",), blocks, (Fact("6.1 dB", "RMSE"),))
    credits = tuple(report.CREDITS.values())
    return report.render(Page("A <b>title</b>", "What was done.", (section,), 17, credits))


def test_the_page_fetches_nothing_and_runs_nothing():
    figure = plots.error_figure({"ours": np.arange(5.0)})
    html = page_of(Picture(figure, "Errors", half=True))
    assert html.count("<img") == 1
    assert all(
        source.startswith("data:image/webp;base64,")
        for source in re.findall(r'src="([^"]+)"', html)
    )
    assert not re.search(r"https?://|<script|<link|@import|url\(", html)


def test_text_is_escaped():
    html = page_of()
    assert "A &lt;b&gt;title&lt;/b&gt;" in html and "<b>title" not in html
    assert "Maps &amp; &lt;figures&gt;" in html and "5 &lt; 6 dB" in html


def test_tables_mark_the_best_of_each_column():
    values = [[2.0, 30.0, 0.9], [3.0, 35.0, 0.8]]
    strong = report.best_of(values, smallest=[True, False, None])
    assert strong == ((0, 1), (1, 2))
    rows = (("ours", "2", "30", "90 %"), ("theirs", "3", "35", "80 %"))
    html = page_of(Table(("method", "RMSE", "PSNR", "holds"), rows, "caption", strong))
    assert "<td><b>2</b></td>" in html and "<td><b>35</b></td>" in html
    assert html.count("<b>") == 2


def test_the_footer_says_what_made_the_page():
    html = page_of()
    assert "<dd>17</dd>" in html and "numpy" in html
    assert "OpenStreetMap contributors" in html and "jakthra, MIT" in html
