"""Every KPI formula stands once, in core/kpi.py: a scan of the source finds no second one."""

import re
from pathlib import Path

import pytest

import hertzmap

SOURCE = Path(hertzmap.__file__).parent
NO_RADIO = {"wayfinding.py"}
"""Takes the logarithm of a distance."""
OTHERS = sorted(
    path
    for path in SOURCE.rglob("*.py")
    if path != SOURCE / "core" / "kpi.py" and path.name not in NO_RADIO
)
CAPACITY = re.compile(r"log2\(\s*1(\.0*)?\s*\+|log2\([^)]*\+\s*1(\.0*)?\s*\)|log1p\([^\n]*log\(2")
FIGURES = re.compile(r"\b(0?\.1523|5\.5547|7\.4063|3846|480e3|480[_]?000)\b")


def test_the_scan_sees_what_it_looks_for():
    own = (SOURCE / "core" / "kpi.py").read_text()
    assert CAPACITY.search(own)
    assert FIGURES.search(own)
    assert len(OTHERS) > 50


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_other_file_holds_a_capacity_or_a_cqi_table(path):
    text = path.read_text()
    assert not CAPACITY.search(text), "use kpi.throughput_mbps, cqi or rank_indicator"
    assert not FIGURES.search(text), "take tables and constants from core.kpi"
