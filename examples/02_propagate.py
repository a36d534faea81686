"""Path gain, delay and line of sight of one antenna among buildings."""

import numpy as np

from hertzmap.core.grid import Grid
from hertzmap.core.kpi import PowerBudget, rsrp_dbm
from hertzmap.core.types import Transmitter
from hertzmap.propagation.dominant_path import DominantPath, Environment
from hertzmap.scenes.synthetic import city

scene = city(seed=5, size_m=128.0, buildings=9)
grid = Grid(rows=64, cols=64, spacing_m=2.0, origin_m=(-64.0, -64.0))
environment = Environment.prepare(scene, grid)
row, col = np.argwhere(environment.site.free)[2000]
east, north = grid.centres_m()[row, col]

antenna = Transmitter((float(east), float(north), 8.0), carrier_hz=3.5e9)
radio_map = DominantPath(environment).trace((antenna,))

valid = radio_map.valid[0]
power_dbm = rsrp_dbm(radio_map.path_gain_db[0][valid], PowerBudget())
print(f"RSRP from {power_dbm.min():.0f} to {power_dbm.max():.0f} dBm over {valid.sum()} cells")
if radio_map.los is not None:
    print(f"{radio_map.los[0][valid].mean():.0%} of them in line of sight")
