"""Read a part of an OpenStreetMap extract and see what is known of its buildings."""

from collections import Counter

from hertzmap.core.grid import Grid
from hertzmap.datasets.remote import find
from hertzmap.scenes.osm import read_osm
from hertzmap.scenes.raster import rasterize

scene = read_osm(find("osm/heidelberg.osm.pbf"), centre_lonlat=(8.7047, 49.4107), radius_m=128.0)
rules = Counter(rule.partition(":")[0] for rule in scene.height_rule)
print(f"{len(scene.footprints)} buildings in {scene.crs}, heights by {dict(rules)}")

west, south, _, _ = scene.bounds_m
site = rasterize(scene, Grid(rows=128, cols=128, spacing_m=2.0, origin_m=(west, south)))
print(f"{site.free.mean():.0%} of the area is outdoors; {scene.attribution}")
