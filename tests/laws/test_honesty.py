"""Law 26: a method sees reports and site. Scramble the truth and not one byte may change."""

import ast
import importlib
import inspect
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import hertzmap
from hertzmap.core import registry
from hertzmap.core.grid import Grid
from hertzmap.core.types import RadioMap, SceneRaster, Transmitter
from hertzmap.diffusion.denoisers import MapUNet, UNetConfig
from hertzmap.estimation._radio_unet import RadioUNetLayout, RadioUNetNetwork
from hertzmap.estimation._transmitter_search import TERMS, TermPrior
from hertzmap.estimation.amortised_unet import AmortisedNetwork
from hertzmap.measurement.sampling import SamplingConfig, sample_reports
from hertzmap.measurement.truth import SimulatedReports, truth_from_fine

ESTIMATORS = registry.names("estimation")
SOURCE = Path(hertzmap.__file__).parent
METHOD_FILES = sorted(
    path for family in ("estimation", "positioning") for path in (SOURCE / family).rglob("*.py")
)
TRUTH = "hertzmap.measurement.truth"
BRIEF = {"iterations": 3, "starts": 1, "steps": 2}


def small_map_network():
    config = UNetConfig(widths=(16, 16, 16), condition_widths=(8, 8, 8), embedding=16, heads=2)
    return stirred(MapUNet(config))


def stirred(network):
    """Some layers start at zero and would hide their input."""
    torch.manual_seed(0)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    return network.eval()


NETWORKS = {
    "radiodiff_inv2": small_map_network,
    "radiodiff_inv1": small_map_network,
    "combined": small_map_network,
    "amortised_unet": lambda: stirred(
        AmortisedNetwork(UNetConfig(10, 6, 8, (16, 16, 16), (8, 8, 8), 16, 2, 8, 2))
    ),
    "radiounet": lambda: stirred(RadioUNetNetwork(RadioUNetLayout(share=0.05))),
    "rme_gan": lambda: stirred(RadioUNetNetwork(RadioUNetLayout(share=0.05, second=False))),
}
"""An untrained network for each method that cannot run without one."""


def build(name):
    """A method with its first preset, an untrained network and few iterations."""
    module = importlib.import_module(f"hertzmap.estimation.{name}")
    method = module.METHOD.from_preset(next(iter(module.PRESETS)))
    if getattr(method, "network", False) is None:
        method = replace(method, network=NETWORKS[name]())
    if hasattr(method, "term_prior"):
        prior = TermPrior(np.zeros(len(TERMS)), 0.01 * np.eye(len(TERMS)))
        method = replace(method, term_prior=prior)
    config = getattr(method, "config", None)
    if config is None:
        return method
    known = {field.name for field in fields(config)}
    brief = {key: value for key, value in BRIEF.items() if key in known}
    return replace(method, config=replace(config, **brief))


def simulate():
    """A truth, its simulated reports, and what a method may know of the site."""
    fine = Grid(64, 64, 0.5)
    east, north = np.moveaxis(fine.centres_m(), -1, 0)
    free = ~((np.abs(east - 20.0) < 4.2) & (np.abs(north - 18.0) < 5.2))
    gain = -50.0 - 25.0 * np.log10(np.maximum(np.hypot(east - 8.0, north - 9.0), 1.0))
    layers = np.where(free, gain - 15.0 * (east > 24.0), np.nan)[None]
    transmitter = Transmitter((8.0, 9.0, 10.0))
    truth = truth_from_fine(RadioMap(fine, layers, free[None], (transmitter,)), free)
    config = SamplingConfig(rate_kp=0.08, sigma_db=4.0, drift_m=1.0)
    simulated = sample_reports(truth, config, np.random.default_rng(1))
    height_m = np.where(truth.free, 0.0, 20.0)
    return truth, simulated, SceneRaster(truth.grid, height_m, truth.free)


def scramble(truth, simulated):
    """Everything only the simulator knows, replaced; the reports stay."""
    draw = np.random.default_rng(2)
    false = replace(
        truth,
        path_gain_db=draw.uniform(-147.0, -50.0, truth.grid.shape),
        fine_gain_db=draw.uniform(-147.0, -50.0, truth.fine_grid.shape),
        transmitter=Transmitter((1.0, 30.0, 3.0)),
        parameters={"n_los": 9.0},
    )
    places = draw.uniform(0.0, 32.0, simulated.true_m.shape)
    return false, SimulatedReports(simulated.reports, places)


def answer(name, truth, simulated, site):
    """Run the method with the simulator's knowledge alive; return every byte of its posterior."""
    posterior = build(name).estimate(simulated.reports, site, seed=7)
    assert truth.grid == posterior.grid
    parts = (posterior.maps_dbm, posterior.log_weight, posterior.spread_db)
    return tuple(part.tobytes() for part in parts)


def contents(reports, site):
    arrays = [getattr(reports, field.name) for field in fields(reports)]
    return [a.tobytes() for a in [*arrays, site.height_m, site.free] if isinstance(a, np.ndarray)]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_scrambled_truth_leaves_every_byte_of_the_answer(name):
    truth, simulated, site = simulate()
    before = contents(simulated.reports, site)
    honest = answer(name, truth, simulated, site)
    false, fooled = scramble(truth, simulated)
    assert not np.array_equal(fooled.true_m, simulated.true_m)
    assert answer(name, false, fooled, site) == honest
    assert contents(simulated.reports, site) == before, "the method changed what it was handed"


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimate_has_no_argument_for_the_truth(name):
    signature = inspect.signature(registry.get("estimation", name).estimate)
    assert list(signature.parameters) == ["self", "reports", "site", "seed"]


def test_reports_have_no_field_for_the_true_place():
    _, simulated, _ = simulate()
    assert not [f.name for f in fields(simulated.reports) if "true" in f.name or "truth" in f.name]


@pytest.mark.parametrize("path", METHOD_FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_method_file_imports_the_truth(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    assert not [name for name in imported if name.startswith(TRUTH)]
    assert "truth" not in path.stem


def test_loading_every_method_does_not_load_the_truth():
    code = (
        "import sys; from hertzmap.core import registry\n"
        "for family in registry.FAMILIES:\n"
        "    for name in registry.names(family): registry.get(family, name)\n"
        f"sys.exit({TRUTH!r} in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
