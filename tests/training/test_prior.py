"""The prior's three stages, and the batches they learn from."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import hertzmap.training.prior as prior
from hertzmap.core.errors import ConfigError
from hertzmap.core.grid import Grid
from hertzmap.datasets.generate import GenerateConfig, ShardPlan, make
from hertzmap.diffusion.denoisers import UNetConfig
from hertzmap.scenes.synthetic import city
from hertzmap.scenes.wayfinding import transmitter_planes
from hertzmap.training.loop import LoopConfig
from hertzmap.training.prior import MapSet, PriorConfig, run

MAPS = GenerateConfig(transmitters=2, margin_m=16.0, outside_share=0.5)
TINY = PriorConfig(
    network=UNetConfig(
        patch=8, widths=(8, 8), condition_widths=(8, 8), embedding=8, heads=2, groups=4
    ),
    loop=LoopConfig(
        steps=5, batch=2, warmup=1, decay=2, save_every=1, validate_every=1000, rate=3e-3
    ),
    backbone_steps=2,
    paper_steps=2,
    training=MAPS,
    validation=replace(MAPS, split="validation"),
)


class Killed(Exception):
    """Stands for a signal."""


def fill(folder, side, shards=2):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(shards):
        spacing_m = 1.0 + number
        grid = Grid(side, side, spacing_m, (-0.5 * side * spacing_m,) * 2)
        scene = city(number, size_m=max(1.2 * side * spacing_m, 96.0), buildings=9)
        make(ShardPlan("toy", number, grid), scene, MAPS, folder)
    return folder


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    return MapSet(fill(tmp_path_factory.mktemp("maps"), 32))


def batch(maps, index, symmetry, agnostic):
    return maps.batch(np.array(index), np.array(symmetry), np.array(agnostic))


def test_a_batch_holds_the_map_and_the_planes_of_its_own_transmitter(maps):
    assert len(maps) == 4
    for index in range(4):
        made = batch(maps, [index], [0], [False])
        free = maps.free[maps.tile[index]]
        np.testing.assert_array_equal(made["weight"][0, 0].numpy(), free)
        np.testing.assert_array_equal(made["planes"][0, 0].numpy(), free)
        clean = made["clean"][0, 0].numpy()
        np.testing.assert_array_equal(clean[~free], 0.0)
        grey = maps.grey[index] / 255.0
        np.testing.assert_allclose(clean[free], (2.0 * grey - 1.0)[free], atol=1e-6)
        assert made["scalars"][0].tolist() == [np.log2(maps.spacing_m[maps.tile[index]]), 1.0]


def test_planes_are_stored_to_a_byte_and_remembered(tmp_path):
    folder = fill(tmp_path, 32, shards=1)
    first = MapSet(folder)
    assert np.array_equal(first.planes, MapSet(folder).planes)
    shard = prior.read_shard(next(folder.glob("*.npz")))
    place = shard.place_m[1]
    planes = transmitter_planes(shard.free, shard.grid, (float(place[0]), float(place[1])))
    np.testing.assert_allclose(first.planes[1] / 255.0, planes, atol=0.51 / 255.0)


def test_the_eight_symmetries_move_maps_and_planes_together(maps):
    index = [0] * 8
    made = batch(maps, index, list(range(8)), [False] * 8)
    stack = torch.cat([made["clean"], made["weight"], made["planes"]], dim=1).numpy()
    plain = stack[0]
    seen = set()
    for symmetry in range(8):
        expected = np.rot90(plain, symmetry % 4, axes=(1, 2))
        expected = expected[:, :, ::-1] if symmetry >= 4 else expected
        np.testing.assert_array_equal(stack[symmetry], expected)
        seen.add(stack[symmetry].tobytes())
    assert len(seen) == 8


def test_what_the_global_unknowns_explain_costs_nothing(maps):
    index, symmetry = np.array([0, 3, 3]), np.array([0, 2, 5])
    made = maps.batch(index, symmetry, np.zeros(3, dtype=bool))
    terms = maps.terms(index, symmetry)
    mean = 0.1 * torch.randn(made["clean"].shape, generator=torch.Generator().manual_seed(0))
    free = made["weight"]
    left = prior.projected_loss(made["clean"], mean, free, terms)
    full = (free * (made["clean"] - mean) ** 2).flatten(1).sum(1) / free.flatten(1).sum(1)
    assert (left < full).all()
    coefficient = torch.linspace(-0.2, 0.2, terms.shape[1])
    moved = mean + torch.einsum("t,strc->src", coefficient, terms)[:, None]
    again = prior.projected_loss(made["clean"], moved, free, terms)
    torch.testing.assert_close(again, left, rtol=0.05, atol=1e-3)


def test_the_gradient_of_the_projected_loss_is_that_of_its_minimum(maps):
    made = maps.batch(np.array([1]), np.array([4]), np.zeros(1, dtype=bool))
    terms, free = maps.terms(np.array([1]), np.array([4])).double(), made["weight"].double()
    clean = made["clean"].double()
    mean = torch.zeros_like(clean, requires_grad=True)
    prior.projected_loss(clean, mean, free, terms).sum().backward()
    step = 1e-4 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1)).double()
    fields, count = (free * terms).flatten(2)[0], free.sum()

    def minimum(at):
        left = (free * (clean - at)).flatten()
        normal = fields @ fields.T / count + prior.RIDGE * torch.eye(len(fields)).double()
        right = fields @ left / count
        return left @ left / count - right @ torch.linalg.solve(normal, right)

    assert mean.grad is not None
    told = float((mean.grad * step).sum())
    seen = float(minimum(step) - minimum(-step)) / 2.0
    assert abs(told - seen) <= 1e-6 * abs(seen) + 1e-12


def test_without_a_transmitter_only_buildings_are_told(maps):
    made = batch(maps, [1, 1], [0, 0], [True, False])
    planes = made["planes"]
    for k in range(5):
        assert torch.equal(planes[0, k], planes[1, 0])
    assert not torch.equal(planes[1, 1], planes[1, 0])
    assert made["scalars"][:, 1].tolist() == [0.0, 1.0]
    assert torch.equal(made["clean"][0], made["clean"][1])


@pytest.fixture(scope="module")
def toy_generate(tmp_path_factory):
    """Stands for the world: 256 m tiles of toy cities, made once."""
    source = fill(tmp_path_factory.mktemp("world"), 256, shards=1)

    def generate(_config, folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path in source.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
            yield path.stem

    return generate


def stages_of(folder, config=TINY, kill_at=None, **options):
    seen = []

    def progress(stage, step, steps, _figures):
        seen.append((stage, step, steps))
        if (stage, step) == kill_at:
            raise Killed

    run(folder, config, progress=progress, **options)
    return seen


def weights(folder, stage):
    return load_file(folder / stage / "state.safetensors")


def test_the_stages_follow_each_other_and_resume(tmp_path, toy_generate, monkeypatch):
    monkeypatch.setattr(prior, "generate", toy_generate)
    seen = stages_of(tmp_path / "whole")
    trained = [item for item in seen if not item[0].startswith("maps")]
    assert trained == [
        ("backbone", 1, 2), ("backbone", 2, 2),
        ("prior", 3, 5), ("prior", 4, 5), ("prior", 5, 5),
        ("paper", 3, 4), ("paper", 4, 4),
    ]  # fmt: skip

    backbone, paper = (weights(tmp_path / "whole", stage) for stage in ("backbone", "paper"))
    for name, value in backbone.items():
        if name.startswith("network.") and not name.startswith("network.condition_"):
            assert torch.equal(paper[name], value), name
    moved = [n for n in backbone if n.startswith("network.") and not backbone[n].equal(paper[n])]
    assert moved

    for kill_at in (("backbone", 1), ("prior", 4), ("paper", 3)):
        with pytest.raises(Killed):
            stages_of(tmp_path / "killed", kill_at=kill_at)
    stages_of(tmp_path / "killed")
    for stage in ("backbone", "prior", "paper"):
        whole, killed = (
            (tmp_path / run_name / stage / "state.safetensors").read_bytes()
            for run_name in ("whole", "killed")
        )
        assert whole == killed, stage


def test_a_folder_of_another_run_is_refused(tmp_path, toy_generate, monkeypatch):
    monkeypatch.setattr(prior, "generate", toy_generate)
    run(tmp_path, TINY, stages=("backbone",))
    with pytest.raises(ConfigError, match="paper_steps"):
        run(tmp_path, replace(TINY, paper_steps=3), stages=("backbone",))


def test_the_networks_are_fresh_from_their_seed():
    first, second, other = (prior.build(TINY.network, seed) for seed in (0, 0, 1))
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(first.stem.weight, other.stem.weight)
    assert first.stem.weight.is_contiguous(memory_format=torch.channels_last)


def test_examples_show_what_the_network_makes_of_each_city(tmp_path):
    folder = fill(tmp_path, 32, shards=1)
    found = prior.examples(prior.build(TINY.network), folder, 4)
    assert [one.name for one in found] == ["toy-0000"]
    one = found[0]
    assert one.free.shape == one.truth.shape == one.mean.shape == one.sample.shape
    left = ((one.truth - one.fitted)[one.free] ** 2).mean()
    assert left < ((one.truth - one.mean)[one.free] ** 2).mean()
