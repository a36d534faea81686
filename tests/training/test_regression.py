"""Reports drawn for training are those of the benchmark; every network learns and is released."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from hertzmap.core.errors import ConfigError
from hertzmap.training import regression
from hertzmap.training.checkpoint import ARCHITECTURES


def a_map(size=64):
    free = np.ones((size, size), bool)
    free[20:40, 24:44] = False
    east, north = np.meshgrid(np.arange(size), np.arange(size))
    return np.where(free, 0.8 - 0.005 * np.hypot(east - 10.0, north - 12.0), 0.0), free


def test_clean_reports_without_drift_read_the_map():
    grey, free = a_map()
    config = regression.ReportRange(count=(200, 200), snr_db=None, drift_cells=0.0)
    count, total, noise, drift = regression.draw_rasters(
        grey, free, config, np.random.default_rng(0)
    )
    assert count.sum() == 200 and noise == 0.0 and drift == 0.0
    assert not count[~free].any()
    np.testing.assert_allclose(total[count > 0], grey[count > 0], atol=1e-12)


def test_noise_has_the_level_that_the_ratio_asks_for():
    grey, free = a_map()
    config = regression.ReportRange(rate_kp=(0.9, 0.9), snr_db=(5.0, 5.0), drift_cells=0.0)
    count, total, noise, _ = regression.draw_rasters(grey, free, config, np.random.default_rng(0))
    assert noise == pytest.approx(np.sqrt(np.mean(grey**2) / 10**0.5))
    assert np.std((total - grey)[count > 0]) == pytest.approx(noise, rel=0.05)


def test_drifted_reports_are_read_on_free_ground():
    grey, free = a_map()
    grey = np.where(free, 0.5, 0.0)
    config = regression.ReportRange(rate_kp=(0.5, 0.5), snr_db=None, drift_cells=5.0)
    count, total, _, drift = regression.draw_rasters(grey, free, config, np.random.default_rng(1))
    assert 0.0 < drift <= 5.0
    np.testing.assert_allclose(total[count > 0], 0.5, atol=1e-9)


def a_batch(name, rng):
    grey, free = a_map()
    maps = object.__new__(regression.Maps)
    maps.grey, maps.free = np.rint(255 * grey)[None].astype(np.uint8), free[None]
    maps.wall = np.full((1, 64, 64), 255, np.uint8)
    maps.tile, maps.spacing_m = np.zeros(1, int), np.ones(1)
    return regression.batch_of(
        maps, np.zeros(2, int), np.array([0, 5]), regression.REPORTS[name], rng
    )


@pytest.mark.parametrize("name", regression.NETWORKS)
def test_every_network_has_a_loss_that_reaches_its_weights(name):
    network = regression.build(name)
    batch = a_batch(name, np.random.default_rng(0))
    for phase in (0.0, 1.0):
        network.zero_grad()
        value = regression._loss(name)(network, batch | {"phase": torch.tensor(phase)})
        value.backward()
        assert torch.isfinite(value)
        assert any(
            weight.grad is not None and weight.grad.abs().sum() > 0
            for weight in network.parameters()
        )
    assert regression.answer(network, batch).shape == (2, 1, 64, 64)


def test_a_held_discriminator_passes_its_gradient_to_the_image_alone():
    pair = regression.GanPair(flawed=False)
    image = torch.rand(1, 1, 64, 64, requires_grad=True)
    pair.judge(image, torch.rand(1, 3, 64, 64), real=True, held=True).backward()
    assert image.grad is not None and image.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in pair.discriminator.parameters())


def test_an_unknown_network_is_named():
    with pytest.raises(ConfigError, match="amortised_unet"):
        regression.RegressionConfig(name="resnet")


def test_settings_of_the_shipped_weights_stand_for_themselves():
    config = regression.default_config("radiounet")
    assert config.loop.steps == regression.STEPS["radiounet"]
    assert json.dumps(replace(config.loop).__dict__)


@pytest.mark.parametrize("name", ["amortised_unet", "radiounet", "rme_gan"])
def test_a_finished_run_is_released_and_loads_again(name, tmp_path):
    from safetensors.torch import save_file

    from hertzmap.training.checkpoint import load_network

    network = regression.build(name)
    folder = tmp_path / name
    folder.mkdir()
    state = {f"average.{k}": v.contiguous() for k, v in network.state_dict().items()}
    save_file(state | {"step": torch.tensor(7)}, folder / "state.safetensors")
    (folder / "config.json").write_text("{}")
    line = {"step": 7, "seconds": 60.0, "run_from": 0, "loss": 0.5}
    (folder / "log.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "plan.json").write_text(json.dumps({"shards": [{"extract": "toy"}]}))
    path = regression.release(tmp_path, name, tmp_path / "out")
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["architecture"] in ARCHITECTURES and card["wall_seconds"] == 60.0
    batch = a_batch(name, np.random.default_rng(0))
    before = regression.answer(network.eval(), batch)
    after = regression.answer(load_network(path), batch)
    torch.testing.assert_close(before, after, atol=5e-3, rtol=5e-2)
