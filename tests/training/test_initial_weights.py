"""What a fine-tuning keeps of a bundle's weights."""

import dataclasses

import pytest

from viscera.core.config import ModelConfig, ScnConfig, StageConfig, UNetConfig, organ_table
from viscera.model.bundle import Bundle, ModelCard
from viscera.training.initial_weights import fitted_model, write_initial_weights

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

STAGE = StageConfig(spacing_mm=9.0, sigma_mm=3.0, sizes_x_vox=(16,), sizes_y_vox=(16,), sizes_z_vox=(16,))
MODEL = ModelConfig(
    localise=STAGE,
    segment=STAGE,
    localiser=UNetConfig(inputs=1, outputs=2, filters=2, levels=2),
    scn=ScnConfig(local_filters=2, local_levels=2, spatial_filters=2, spatial_levels=2, spatial_factor=2),
)


@pytest.fixture
def bundle(tmp_path):
    from viscera.model.networks import SpatialConfigurationNet, UNet

    torch.manual_seed(3)
    safetensors.save_file(UNet(MODEL.localiser).state_dict(), tmp_path / "localise.safetensors")
    safetensors.save_file(SpatialConfigurationNet(MODEL.scn).state_dict(), tmp_path / "segment.safetensors")
    card = ModelCard(name="tiny", version="1", description="Random weights.", licence="CC0-1.0", model=MODEL)
    return Bundle(folder=tmp_path, card=card)


def begun(bundle, stage, organs, model=None):
    model = model or fitted_model(bundle, organs)
    beginning = write_initial_weights(bundle, stage, model, organs, bundle.folder / "initial.safetensors", seed=1)
    return beginning, safetensors.load_file(beginning.file), safetensors.load_file(bundle.weights(stage))


SAME = [organ.name for organ in organ_table(["liver", "kidney", "spleen", "pancreas"])]


@pytest.mark.parametrize("stage", ["localise", "segment"])
def test_for_the_same_organs_all_is_kept(bundle, stage):
    beginning, weights, own = begun(bundle, stage, SAME)
    assert beginning.fresh == ()
    assert weights.keys() == own.keys()
    assert all(torch.equal(weights[name], own[name]) for name in own)
    assert "all" in beginning.summary()


def test_for_other_organs_the_local_network_is_kept_but_for_its_last_layer(bundle):
    beginning, weights, own = begun(bundle, "segment", ["spleen", "gallbladder"])
    local = [name for name in own if name.startswith("local.") and ".output." not in name]
    assert sorted(beginning.kept) == sorted(local)
    assert all(torch.equal(weights[name], own[name]) for name in local)
    assert weights["local.output.weight"].shape[0] == 3
    assert sum(name.endswith("contracting.0.first.weight") for name in weights if name.startswith("spatial")) == 3
    assert beginning.summary().endswith("initialised: local.output, spatial")


def test_for_as_many_other_organs_nothing_that_stands_for_an_organ_is_kept(bundle):
    beginning, weights, own = begun(bundle, "segment", ["spleen", "liver", "kidney", "pancreas"])
    assert not any(name.startswith(("spatial.", "local.output.")) for name in beginning.kept)
    assert not torch.equal(weights["local.output.weight"], own["local.output.weight"])


def test_the_localisation_is_kept_whatever_the_organs(bundle):
    beginning, _, _ = begun(bundle, "localise", ["gallbladder"])
    assert beginning.fresh == ()


def test_layers_of_another_shape_begin_anew(bundle):
    model = dataclasses.replace(MODEL, localiser=UNetConfig(inputs=1, outputs=2, filters=2, levels=3))
    beginning, _, _ = begun(bundle, "localise", SAME, model)
    assert "contracting.2.first.weight" in beginning.fresh
    assert "contracting.0.first.weight" in beginning.kept
    # Once the deepest level, expanding.1 now reads a skip too: its first convolution has another shape.
    assert beginning.summary().endswith("initialised: contracting.2, expanding.1.first.weight, expanding.2")


def test_what_begins_anew_is_drawn_by_the_seed_and_leaves_other_draws_alone(bundle):
    state = torch.get_rng_state()
    first, second = (begun(bundle, "segment", ["spleen"])[1] for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), state)
