"""Read a table of measured reports and write it back as GeoJSON with the buildings."""

import tempfile
from pathlib import Path

from hertzmap.core.errors import ReportsError
from hertzmap.datasets.interchange import (
    cells_by_count,
    group_places,
    read_reports,
    repeated_places,
    write_geojson,
)
from hertzmap.datasets.remote import find
from hertzmap.scenes.osm import read_osm

scene = read_osm(find("rsrp-campus/campus.osm.gz"))
table = find("rsrp-campus/reports.csv")

everyone = read_reports(table, scene)
print(f"reports by radio cell: {cells_by_count(everyone)}")

reports = read_reports(table, scene, cell=7, noise_db=3.0, drift_std_m=3.0)
places = len(set(group_places(reports.reported_m).tolist()))
print(f"cell 7: {len(reports)} reports, {repeated_places(reports)} repeated, {places} places")

with tempfile.TemporaryDirectory() as folder:
    write_geojson(Path(folder) / "campus.geojson", scene, reports=reports)
    print(f"GeoJSON of {(Path(folder) / 'campus.geojson').stat().st_size / 1024:.0f} KiB")

try:
    read_reports(table, scene, cell=8)
except ReportsError as error:
    print(f"a clear error: {str(error).partition('; ')[2]}")
