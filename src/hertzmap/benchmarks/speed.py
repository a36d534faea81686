"""Time and memory of every estimator on the same map, one after the other, nothing else running.

The first run of each method is not counted: it compiles kernels and reads weights.
"""

import time
from pathlib import Path
from statistics import median

import torch

from hertzmap.benchmarks import maps, results, worlds
from hertzmap.benchmarks import methods as method_tools
from hertzmap.benchmarks.results import ResultFile, ResultRow
from hertzmap.benchmarks.tables import load_cell

PROTOCOL = (
    "Median of the counted runs of one estimate; one warm-up run before them. Wall time and "
    "processor time of all threads; peak memory of the process during the estimate."
)
"""What the numbers mean; stands in the result file."""


def run(
    out: Path = Path("results/speed"),
    methods: list[str] | None = None,
    repeats: int = 3,
) -> Path:
    """Time estimators on the default cell's first map and write ``estimators.json``.

    Args:
        out: folder of the result file.
        methods: methods as ``name:preset[:option=value,...]``; those of the default cell whose
            weights are shipped by default.
        repeats: counted runs of each.

    Returns:
        The result file.
    """
    config = load_cell("default")
    world = worlds.load(maps.world_keys(config, "test")[0])
    reports = maps.draw_reports(config, world, 0)
    contestants = maps.contestants(config, methods)
    rows: list[ResultRow] = []
    for contestant in contestants:
        wall, processor, memory = [], [], []
        for turn in range(repeats + 1):
            method_tools.reset_peak_memory()
            started, cpu_started = time.perf_counter(), time.process_time()
            contestant.estimator.estimate(reports, world.site, seed=0)
            if turn:
                wall.append(time.perf_counter() - started)
                processor.append(time.process_time() - cpu_started)
                memory.append(method_tools.peak_memory_mib())
        figures = {
            "seconds": ("s", median(wall)),
            "cpu_seconds": ("s", median(processor)),
            "peak_rss_mib": ("MiB", max(memory)),
        }
        rows += [
            ResultRow(contestant.method, name, unit, round(value, 4), None, 1)
            for name, (unit, value) in figures.items()
        ]
    header = results.provenance(
        maps.reports_hash(config),
        PROTOCOL,
        cell=config.cell,
        world=world.key.name,
        grid=list(world.site.grid.shape),
        reports=len(reports),
        repeats=repeats,
        threads=torch.get_num_threads(),
        measured_on={one.method: [results.machine()] for one in contestants},
    )
    path = out / "estimators.json"
    results.write(path, ResultFile(header, tuple(rows)))
    return path
