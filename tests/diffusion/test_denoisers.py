"""Law 15 and the layout of the denoiser."""

import math

import pytest
import torch
from torch.nn import functional

from hertzmap.diffusion.denoisers import MapUNet, UNetConfig

TINY = UNetConfig(
    patch=4, widths=(16, 16), condition_widths=(8, 8), embedding=16, heads=2, groups=4
)
DEEP = UNetConfig(widths=(16, 16, 24), condition_widths=(8, 8, 8), embedding=16, heads=2, groups=8)


def network(config=TINY, *, std=0.1):
    torch.manual_seed(0)
    made = MapUNet(config).eval()
    for parameter in made.parameters():  # some layers start at zero and would hide their input
        torch.nn.init.normal_(parameter, std=std)
    return made


def inputs(batch=2, rows=32, cols=32, planes=5):
    generator = torch.Generator().manual_seed(1)
    state = torch.randn(batch, 1, rows, cols, generator=generator)
    stack = torch.rand(batch, planes, rows, cols, generator=generator)
    angle = torch.linspace(0.3, 0.5 * math.pi, batch)
    return state, angle, stack, torch.randn(batch, 2, generator=generator)


@pytest.mark.parametrize("patch", [2, 4, 8])
def test_patches_only_reorder_numbers(patch):
    state, *_ = inputs(rows=32, cols=64)
    patches = functional.pixel_unshuffle(state, patch)
    assert torch.equal(functional.pixel_shuffle(patches, patch), state)
    count = torch.arange(32 * 64, dtype=torch.float32).reshape(1, 1, 32, 64)
    reordered = functional.pixel_unshuffle(count, patch).flatten().sort().values
    assert torch.equal(reordered, count.flatten())


def test_white_noise_stays_white_in_patches():
    draws = 40_000
    noise = torch.randn(draws, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    covariance = torch.cov(functional.pixel_unshuffle(noise, 4).flatten(1).T)
    assert float((covariance - torch.eye(64)).abs().max()) < 6.0 * math.sqrt(2.0 / draws)


def test_a_fresh_network_says_nothing():
    torch.manual_seed(0)
    assert not MapUNet(TINY)(*inputs()).any()


def test_the_output_is_a_field_plus_fields_times_planes_and_state():
    made = network()
    caught = []
    made.head.register_forward_hook(lambda _module, _inputs, output: caught.append(output))
    state, angle, planes, scalars = inputs()
    with torch.no_grad():
        clean = made(state, angle, planes, scalars)
    fields = functional.pixel_shuffle(caught[0], TINY.patch)
    assert fields.shape[1] == TINY.planes + 2
    basis = torch.cat([torch.ones_like(state), planes, state], dim=1)
    expected = (fields * basis).sum(dim=1, keepdim=True)
    torch.testing.assert_close(clean, expected, rtol=1e-5, atol=1e-5)
    assert float(clean.std()) > 0.0


@pytest.mark.parametrize("term", range(7))
def test_each_coefficient_belongs_to_its_plane(term):
    torch.manual_seed(0)
    made = MapUNet(TINY)
    area = TINY.patch**2
    assert made.head.bias is not None
    with torch.no_grad():
        made.head.bias[term * area : (term + 1) * area] = 1.0
        state, angle, planes, scalars = inputs()
        clean = made(state, angle, planes, scalars)
    expected = [torch.ones_like(state), *planes.split(1, dim=1), state][term]
    torch.testing.assert_close(clean, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("rows", "cols"), [(32, 32), (32, 96), (160, 64)])
def test_any_multiple_of_the_lowest_level_fits(rows, cols):
    with torch.no_grad():
        clean = network(DEEP)(*inputs(batch=1, rows=rows, cols=cols))
    assert clean.shape == (1, 1, rows, cols)
    assert torch.isfinite(clean).all()


def test_known_features_change_nothing():
    made, (state, angle, planes, scalars) = network(), inputs()
    with torch.no_grad():
        features = made.encode_condition(planes)
        assert torch.equal(
            made(state, angle, planes, scalars, features), made(state, angle, planes, scalars)
        )


def test_one_sample_knows_nothing_of_the_others():
    made, (state, angle, planes, scalars) = network(), inputs(batch=3)
    with torch.no_grad():
        together = made(state, angle, planes, scalars)
        alone = made(state[1:2], angle[1:2], planes[1:2], scalars[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("which", ["state", "angle", "planes", "scalars"])
def test_every_input_counts(which):
    made, given = network(), dict(zip(("state", "angle", "planes", "scalars"), inputs()))  # noqa: B905
    with torch.no_grad():
        before = made(**given)
        changed = 0.5 * given[which]
        after = made(**{**given, which: changed})
    assert float((after - before).abs().max()) > 1e-4


@pytest.mark.parametrize("phi", [0.0, 1e-4, 0.5 * math.pi])
def test_the_ends_of_the_noise_scale_are_finite(phi):
    state, angle, planes, scalars = inputs()
    with torch.no_grad():
        clean = network()(state, torch.full_like(angle, phi), planes, scalars)
    assert torch.isfinite(clean).all()


def test_condition_parameters_are_the_encoder_and_its_injections():
    made = MapUNet(TINY)
    tuned = {id(p) for p in made.condition_parameters()}
    names = {name.split(".")[0] for name, p in made.named_parameters() if id(p) in tuned}
    others = {name.split(".")[0] for name, p in made.named_parameters() if id(p) not in tuned}
    assert names == {"condition_encoder", "condition_scalars", "condition_down", "condition_up"}
    assert others == {
        "time", "stem", "down", "shrink", "middle", "attention", "up", "grow", "head_norm", "head",
    }  # fmt: skip


def test_the_condition_enters_through_its_modules_and_as_a_basis_only():
    made, (state, angle, planes, scalars) = network(), inputs()
    fields = []
    made.head.register_forward_hook(lambda _module, _inputs, output: fields.append(output))
    with torch.no_grad():
        for parameter in made.condition_parameters():
            parameter.zero_()
        made(state, angle, planes, scalars)
        made(state, angle, 0.5 * planes, 2.0 * scalars)
    assert torch.equal(fields[0], fields[1])


def test_the_shipped_layout_fits_its_file():
    count = sum(p.numel() for p in MapUNet(UNetConfig()).parameters())
    assert 4.0e6 < count < 5.0e6
    assert 2 * count < 16 * 2**20  # half precision
