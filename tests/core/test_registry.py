import subprocess
import sys

import pytest

from hertzmap.core import registry
from hertzmap.core.errors import ConfigError, HertzmapError


def test_names_are_sorted_files_without_base_and_private_ones():
    names = registry.names("estimation")
    assert list(names) == sorted(set(names))
    assert "base" not in names and not any(name.startswith("_") for name in names)


def test_a_new_file_is_a_new_method(tmp_path, monkeypatch):
    import hertzmap.positioning

    (tmp_path / "compass.py").write_text("METHOD = dict\n")
    (tmp_path / "_helper.py").write_text("")
    (tmp_path / "base.py").write_text("")
    places = [*hertzmap.positioning.__path__, str(tmp_path)]
    monkeypatch.setattr(hertzmap.positioning, "__path__", places)
    spec = hertzmap.positioning.__spec__
    monkeypatch.setattr(spec, "submodule_search_locations", places)
    assert "compass" in registry.names("positioning")
    assert "_helper" not in registry.names("positioning")
    assert registry.get("positioning", "compass") is dict


def test_an_unknown_family_and_an_unknown_method_are_told_the_choice():
    with pytest.raises(ConfigError, match="choose one of estimation, positioning"):
        registry.names("cooking")
    with pytest.raises(ConfigError, match="estimation has no method 'guess'; it has: "):
        registry.get("estimation", "guess")
    assert issubclass(ConfigError, HertzmapError)


@pytest.mark.parametrize("heavy", ["torch", "osmium", "rasterio", "skfmm"])
def test_the_nouns_and_scenes_load_nothing_heavy(heavy):
    code = (
        "import sys, hertzmap.core.types, hertzmap.core.posteriors, hertzmap.scenes.osm, "
        "hertzmap.scenes.tiles; from hertzmap.core import registry; registry.names('estimation'); "
        f"assert {heavy!r} not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
