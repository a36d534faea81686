"""Sample noisy, misplaced reports from a simulated truth and write them as a table."""

import tempfile
from pathlib import Path

import numpy as np

from hertzmap.core.grid import Grid
from hertzmap.core.seeds import generator
from hertzmap.core.types import Transmitter
from hertzmap.datasets.interchange import write_reports
from hertzmap.measurement.sampling import SamplingConfig, sample_reports
from hertzmap.measurement.truth import truth_from_fine
from hertzmap.propagation.dominant_path import DominantPath, Environment
from hertzmap.scenes.synthetic import city

scene = city(seed=5, size_m=96.0, buildings=9)
grid = Grid(rows=48, cols=48, spacing_m=2.0, origin_m=(-48.0, -48.0))
fine = Environment.prepare(scene, grid.refine(2))  # truth lives on a finer grid than estimates
street = fine.grid.centres_m()[fine.site.free][0]
antenna = Transmitter((float(street[0]), float(street[1]), 8.0))
truth = truth_from_fine(DominantPath(fine).trace((antenna,)), fine.site.free)

config = SamplingConfig(rate_kp=0.05, sigma_db=4.0, drift_m=2.0)
simulated = sample_reports(truth, config, generator(7))
moved_m = np.linalg.norm(simulated.true_m - simulated.reports.reported_m, axis=1)
print(f"{len(simulated.reports)} reports, {moved_m.mean():.1f} m off on average")

with tempfile.TemporaryDirectory() as folder:
    table = Path(folder) / "reports.csv"
    write_reports(table, simulated.reports, scene)
    print(table.read_text().partition("\n")[0])
