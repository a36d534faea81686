"""The loop: a killed and resumed run is an uninterrupted one, bit for bit."""

import json
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import hertzmap.training.loop as loop_module
from hertzmap.diffusion.denoisers import UNetConfig
from hertzmap.diffusion.losses import denoising_loss
from hertzmap.diffusion.process import shifted_angle
from hertzmap.training.loop import LoopConfig, read_log, train
from hertzmap.training.prior import build

TINY = UNetConfig(
    patch=4, widths=(16, 16), condition_widths=(8, 8), embedding=16, heads=2, groups=4
)
SHORT = LoopConfig(
    steps=14, batch=2, rate=3e-3, warmup=3, decay=4, save_every=5, validate_every=7, seed=3
)


class Killed(Exception):
    """Stands for a signal."""


def fresh(seed=0):
    return build(TINY, seed)


def draw(rng, _step):
    size = (2, 1, 32, 32)
    planes = torch.from_numpy(rng.random((2, 5, 32, 32), dtype=np.float32))
    return {
        "clean": 2.0 * planes[:, :1] - 1.0,
        "noise": torch.from_numpy(rng.standard_normal(size, dtype=np.float32)),
        "angle": shifted_angle(torch.from_numpy(rng.random(2).astype(np.float32)) + 1e-3, 3.0),
        "planes": planes,
        "scalars": torch.zeros(2, 2),
    }


def loss(network, batch):
    def denoiser(state, angle):
        return network(state, angle, batch["planes"], batch["scalars"])

    weight = torch.ones_like(batch["clean"])
    return denoising_loss(denoiser, batch["clean"], batch["noise"], batch["angle"], weight).mean()


def validate(network):
    with torch.no_grad():
        return {"size": float(sum(p.abs().sum() for p in network.parameters()))}


def run(folder, *, config=SHORT, kill_at=None, init=0, trainable=None, seen=None):
    """One process: trains, and dies after `kill_at` steps."""
    network = fresh(init)

    def progress(step, figures):
        if seen is not None:
            seen.append((step, deepcopy(figures)))
        if step == kill_at:
            raise Killed

    chosen = trainable(network) if trainable else None
    return train(
        network,
        deepcopy(network),
        loss,
        draw,
        validate,
        config,
        folder,
        trainable=chosen,
        progress=progress,
    )


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The last state of a run that nothing interrupted."""
    return run(tmp_path_factory.mktemp("whole")).read_bytes()


@pytest.mark.parametrize("kills", [(5,), (6, 11, 13)])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, expected, kills):
    for number, kill in enumerate(kills):
        with pytest.raises(Killed):
            run(tmp_path, kill_at=kill, init=number)
    found = run(tmp_path, init=9)  # another fresh network: only the file counts
    assert found.read_bytes() == expected


def test_a_run_killed_before_its_first_state_starts_again(tmp_path, expected):
    with pytest.raises(Killed):
        run(tmp_path, kill_at=3)
    assert run(tmp_path).read_bytes() == expected


def test_a_finished_run_is_left_alone(tmp_path, expected):
    (tmp_path / "state.safetensors").write_bytes(expected)
    assert run(tmp_path, init=5).read_bytes() == expected
    assert not (tmp_path / "log.jsonl").exists()


def test_a_longer_run_goes_on_where_a_shorter_one_ended(tmp_path):
    steady = replace(SHORT, decay=1)
    run(tmp_path / "short", config=replace(steady, steps=9))
    found = run(tmp_path / "short", config=steady, init=4)
    assert found.read_bytes() == run(tmp_path / "long", config=steady).read_bytes()


def test_another_seed_is_another_run(tmp_path, expected):
    assert run(tmp_path, config=replace(SHORT, seed=4)).read_bytes() != expected


def test_every_step_has_its_own_draw(tmp_path):
    seen = []

    def noted(rng, step):
        batch = draw(rng, step)
        seen.append((step, float(batch["noise"].sum())))
        return batch

    network = fresh()
    train(network, deepcopy(network), loss, noted, validate, SHORT, tmp_path)
    sums = dict(seen)
    assert set(range(SHORT.steps)) <= set(sums)
    assert len(set(sums.values())) == len(sums)


def test_the_rate_rises_stays_and_falls():
    config = LoopConfig(steps=100, rate=2.0, warmup=10, decay=20)
    rates = np.array([config.rate_at(step) for step in range(100)])
    np.testing.assert_allclose(rates[:10], 2.0 * np.arange(1, 11) / 10)
    np.testing.assert_allclose(rates[10:81], 2.0)
    np.testing.assert_allclose(rates[80:], 2.0 * np.arange(20, 0, -1) / 20)
    assert config.rate_at(99) > 0.0
    assert config.rate_at(1000) == pytest.approx(0.02)


def test_without_decay_the_rate_stays():
    config = LoopConfig(steps=50, rate=1.0, warmup=1, decay=1)
    assert {config.rate_at(step) for step in range(50)} == {1.0}


def test_the_log_tells_rates_and_validations(tmp_path):
    seen = []
    run(tmp_path, seen=seen)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [14]
    assert lines[0]["run_from"] == 0
    assert {"loss", "rate", "size", "seconds"} <= set(lines[0])
    assert [step for step, _ in seen] == list(range(1, 15))
    for step, figures in seen:
        assert figures["rate"] == SHORT.rate_at(step - 1)
        assert ("size" in figures) == (step >= 7)


def test_a_resumed_run_says_where_it_went_on(tmp_path):
    with pytest.raises(Killed):
        run(tmp_path, kill_at=12)
    run(tmp_path)
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert last["run_from"] == 10


def test_a_resumed_run_takes_its_smoothed_loss_and_log_along(tmp_path):
    with pytest.raises(Killed):
        run(tmp_path, kill_at=12)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 10, "loss": 5.0}\n{"step": 12, "loss": 6.0}\n{"step": 13, "lo')
    run(tmp_path)
    lines = read_log(tmp_path / "log.jsonl")
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps))
    assert lines[-1]["loss"] > 4.0


def test_the_average_follows_its_law(tmp_path):
    network = nn.Linear(3, 1)
    average = deepcopy(network)
    expected = average.weight.detach().clone()

    def follow(step, _figures):
        nonlocal expected
        decay = min(SHORT.average, step / (9 + step))
        expected = decay * expected + (1.0 - decay) * network.weight.detach()

    train(
        network,
        average,
        lambda net, batch: (net(batch["x"]) - 1.0).square().mean(),
        lambda rng, _step: {"x": torch.from_numpy(rng.random((4, 3), dtype=np.float32))},
        lambda _network: {},
        SHORT,
        tmp_path,
        progress=follow,
    )
    torch.testing.assert_close(average.weight, expected, rtol=1e-5, atol=1e-6)
    stored = load_file(tmp_path / "state.safetensors")
    assert torch.equal(stored["average.weight"], average.weight)
    assert torch.equal(stored["network.weight"], network.weight)


def test_frozen_parameters_stay_frozen(tmp_path):
    run(tmp_path, trainable=lambda network: network.condition_parameters())
    stored, start = load_file(tmp_path / "state.safetensors"), fresh().state_dict()
    for name, value in start.items():
        moved = not torch.equal(stored[f"network.{name}"], value)
        if not name.startswith("condition_"):
            assert not moved, name
    optimised = {name.split(".", 2)[2] for name in stored if name.startswith("optimiser.step.")}
    assert optimised == {name for name in start if name.startswith("condition_")}


def test_a_stage_that_tunes_a_part_goes_on_bit_for_bit(tmp_path):
    def part(network):
        return network.condition_parameters()

    whole = run(tmp_path / "whole", trainable=part).read_bytes()
    with pytest.raises(Killed):
        run(tmp_path / "killed", kill_at=8, trainable=part)
    assert run(tmp_path / "killed", init=1, trainable=part).read_bytes() == whole


def test_a_crash_while_saving_leaves_the_last_state_whole(tmp_path, monkeypatch, expected):
    save, calls = loop_module.save_file, []

    def torn(tensors, path, metadata):
        calls.append(path)
        if len(calls) == 2:
            path.write_bytes(b"half a file")
            raise Killed
        save(tensors, path, metadata=metadata)

    monkeypatch.setattr(loop_module, "save_file", torn)
    with pytest.raises(Killed):
        run(tmp_path / "torn")
    assert int(load_file(tmp_path / "torn" / "state.safetensors")["step"]) == 5
    assert run(tmp_path / "torn", init=2).read_bytes() == expected


def test_training_lowers_the_loss(tmp_path):
    network, batch = fresh(), draw(np.random.default_rng(77), 0)
    before = float(loss(network, batch).detach())
    config = replace(SHORT, steps=50, decay=20)
    train(network, deepcopy(network), loss, draw, validate, config, tmp_path)
    assert float(loss(network, batch).detach()) < 0.7 * before
