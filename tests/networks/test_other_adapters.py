import importlib
import random

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from library.saving.weights import load_tensors
from networks.changes import kronecker
from networks.layers import Dropout
from networks.lokr import LoKrModule, factorization
from networks.rotations import cayley_turn
from networks.targets import Target

KINDS = {
    "lora_fa": {"conv_dim": "2"},
    "dylora": {"unit": "2", "conv_dim": "4"},
    "oft": {"enable_conv": "True"},
    "loha": {"conv_dim": "2"},
    "loha tucker": {"conv_dim": "2", "use_tucker": "True"},
    "lokr": {"conv_dim": "2"},
    "lokr tucker factor": {"conv_dim": "2", "use_tucker": "True", "factor": "4"},
}
SUFFIXES = {
    "lora_fa": {"lora_down.weight", "lora_up.weight", "alpha"},
    "dylora": {"lora_down.weight", "lora_up.weight", "alpha"},
    "oft": {"oft_blocks", "alpha"},
    "loha": {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha"},
    "loha tucker": {"hada_t1", "hada_t2", "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha"},
    "lokr": {"lokr_w1", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "alpha"},
    "lokr tucker factor": {"lokr_w1", "lokr_w2", "lokr_t2", "lokr_w2_a", "lokr_w2_b", "alpha"},
}


def module_of(kind):
    return importlib.import_module("networks." + kind.split()[0])


def make(models, kind, family="sd1", apply=True, alpha=2.0):
    text_encoder, unet = models(family)
    network = module_of(kind).create_network(1.0, 4, alpha, None, text_encoder, unet, **KINDS[kind])
    if apply:
        network.apply_to(text_encoder, unet, True, True)
    return network, unet


def stir(network):
    """Random values in every zero factor, small enough not to blow up."""
    for module in network.adapters:
        for _, parameter in module.named_parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.02)
    return network.eval()


def noise_prediction(unet):
    torch.manual_seed(1)
    with torch.no_grad():
        return unet(torch.randn(1, 4, 16, 16), 5, torch.randn(1, 7, 32)).sample


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_network_changes_nothing_and_trains_every_layer(tiny_models, kind):
    network, unet = make(tiny_models, kind)
    before = noise_prediction(tiny_models("sd1")[1])
    torch.testing.assert_close(noise_prediction(unet), before)
    unet(torch.randn(1, 4, 16, 16), 5, torch.randn(1, 7, 32)).sample.square().mean().backward()
    assert all(any(p.grad is not None for p in module.parameters()) for module in network.unet_loras)


@pytest.mark.parametrize("kind", KINDS)
def test_merged_weights_give_the_adapters_output(tiny_models, kind):
    network, unet = make(tiny_models, kind)
    stir(network).set_multiplier(0.7)
    adapted = noise_prediction(unet)
    network.pre_calculation()
    torch.testing.assert_close(noise_prediction(unet), adapted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_has_the_known_keys_and_rebuilds_the_network(tiny_models, tmp_path, kind):
    network, unet = make(tiny_models, kind)
    expected = noise_prediction(unet) if stir(network) else None
    network.save_weights(tmp_path / "x.safetensors", None, {})
    assert {key.partition(".")[2] for key in load_tensors(tmp_path / "x.safetensors")} == SUFFIXES[kind]
    text_encoder, unet = tiny_models("sd1")
    again, _ = module_of(kind).create_network_from_weights(1.0, tmp_path / "x.safetensors", None, text_encoder, unet)
    again.apply_to(text_encoder, unet, True, True)
    report = again.eval().load_weights(tmp_path / "x.safetensors")
    assert (report.missing_keys, report.unexpected_keys) == ([], [])
    assert torch.equal(noise_prediction(unet), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_models_work_outside_autocast(tiny_models, kind):
    network, unet = make(tiny_models, kind)
    unet.to(torch.bfloat16)
    stir(network)
    sample = unet(torch.randn(1, 4, 16, 16).bfloat16(), 5, torch.randn(1, 7, 32).bfloat16()).sample
    assert sample.dtype == torch.bfloat16 and sample.isfinite().all()


@pytest.mark.parametrize(("kind", "modules"), [("loha", 258), ("lokr", 258), ("dylora", 258), ("lora_fa", 258)])
def test_sdxl_names_are_distinct_and_original(tiny_models, kind, modules):
    network, _ = make(tiny_models, kind, family="sdxl")
    names = {module.lora_name for module in network.unet_loras}
    assert len(names) == modules
    assert all(name.startswith(("lora_unet_input_", "lora_unet_middle_", "lora_unet_output_")) for name in names)


# --- LoRA-FA -----------------------------------------------------------------------------------------------------------


def test_lora_fa_trains_the_up_matrices_alone(tiny_models):
    network, _ = make(tiny_models, "lora_fa")
    network.prepare_grad_etc(None, None)
    groups, _ = network.prepare_optimizer_params(None, None, 1e-3)
    assert sum(len(group["params"]) for group in groups) == len(network.adapters)
    assert not any(module.lora_down.weight.requires_grad for module in network.adapters)


# --- DyLoRA ------------------------------------------------------------------------------------------------------------


def test_dylora_trains_one_slice_a_step_and_keeps_it_within_the_step(tiny_models):
    network, unet = make(tiny_models, "dylora")
    network.train()
    random.seed(0)
    for _ in range(2):
        unet(torch.randn(1, 4, 16, 16), 5, torch.randn(1, 7, 32)).sample.mean().backward()
    module = network.unet_loras[0]
    learnt = [index for index, column in enumerate(module.lora_B) if column.grad is not None]
    assert learnt == [module.slice_start, module.slice_start + 1]


def test_dylora_refuses_ranks_its_unit_does_not_divide(tiny_models):
    with pytest.raises(ValueError, match="--network_dim 4 is no multiple of unit=3"):
        module_of("dylora").create_network(1.0, 4, 1, None, *tiny_models("sd1"), unit="3")


# --- OFT ---------------------------------------------------------------------------------------------------------------


def test_oft_turns_are_rotations_within_the_bound():
    torch.manual_seed(0)
    turn = cayley_turn(torch.randn(3, 4, 4), limit=0.5) + torch.eye(4)
    torch.testing.assert_close(turn @ turn.mT, torch.eye(4).expand(3, 4, 4))


class Operations(TorchDispatchMode):
    """Notes the names of all operations."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func._schema.name)
        return func(*args, **(kwargs or {}))


def test_oft_waits_for_no_answer_of_its_device():
    blocks = torch.randn(2, 4, 4).requires_grad_()
    with Operations() as operations:
        cayley_turn(blocks, 0.5).sum().backward()
    assert operations.names and not {"aten::_linalg_check_errors", "aten::_local_scalar_dense"} & operations.names


@pytest.mark.parametrize(("arguments", "modules"), [({}, 128), ({"enable_all_linear": "True"}, 192), ({"enable_conv": "False"}, 128)])
def test_oft_takes_attention_layers_unless_told_more(tiny_models, arguments, modules):
    text_encoder, unet = tiny_models("sd1")
    network = module_of("oft").create_network(1.0, 4, 1e-3, None, text_encoder, unet, **arguments)
    assert (len(network.text_encoder_loras), len(network.unet_loras)) == (0, modules)
    assert network.unet_loras[0].lora_name.startswith("oft_unet_")


# --- LoHa and LoKr -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "factor", "split"),
    [(320, -1, (16, 20)), (768, -1, (24, 32)), (1280, -1, (32, 40)), (10240, -1, (80, 128)), (960, -1, (30, 32)), (4, -1, (2, 2)),
     (512, 4, (4, 128)), (1280, 8, (8, 160)), (7, -1, (1, 7)), (1280, 6, (5, 256))],
)  # fmt: skip
def test_sizes_split_as_lycoris_splits_them(size, factor, split):
    assert factorization(size, factor) == split


def test_the_kronecker_product_is_numpys():
    torch.manual_seed(0)
    first, second = torch.randn(2, 3), torch.randn(4, 5)
    torch.testing.assert_close(kronecker(first, second), torch.kron(first, second))


def test_a_whole_w2_forces_the_scale_to_one():
    target = Target("x", "x", nn.Linear(12, 12), "x")
    module = LoKrModule(target, 8, 2.0, 1.0, Dropout(), split=(3, 3))
    module.load_state_dict({"alpha": torch.tensor(2.0)}, strict=False)
    assert module.scale == 1.0


def test_each_text_encoder_has_its_own_rate(tiny_models):
    network, _ = make(tiny_models, "loha", family="sdxl")
    groups, names = network.prepare_optimizer_params_with_multiple_te_lrs([1e-4, 2e-4], 3e-4, 1.0)
    assert names == ["textencoder 1", "textencoder 2", "unet"]
    assert [group["lr"] for group in groups] == [1e-4, 2e-4, 3e-4]


def test_layers_can_be_left_out_and_ranked_and_rated_by_pattern(tiny_models):
    text_encoder, unet = tiny_models("sd1")
    network = module_of("loha").create_network(
        1.0, 4, 2.0, None, text_encoder, unet,
        exclude_patterns="['.*ff.*']", include_patterns="['mid_block.*ff.*']",
        network_reg_dims=r".*attn2\.to_k=8", network_reg_lrs=".*attn1.*=1e-5,.*attn2.*=2e-5",
    )  # fmt: skip
    assert {module.target.path.split(".")[0] for module in network.unet_loras if ".ff." in module.target.path} == {"mid_block"}
    assert {module.rank for module in network.unet_loras if module.target.path.endswith("attn2.to_k")} == {8}
    groups, names = network.prepare_optimizer_params_with_multiple_te_lrs(None, None, 1e-3)
    assert names == ["textencoder 1", "unet reg_lr_0", "unet reg_lr_1", "unet"]
    assert [group["lr"] for group in groups] == [1e-3, 1e-5, 2e-5, 1e-3]


@pytest.mark.parametrize(("key", "value"), [("exclude_patterns", "[.*"), ("network_reg_dims", "attn"), ("network_reg_lrs", "(=1")])
def test_a_bad_pattern_names_its_key(tiny_models, key, value):
    with pytest.raises(ValueError, match=key):
        module_of("loha").create_network(1.0, 4, 2.0, None, *tiny_models("sd1"), **{key: value})


def test_rank_dropout_of_loha_drops_output_rows(tiny_models):
    layer, x = nn.Linear(8, 600), torch.randn(3, 8)
    base = layer(x)
    target = Target("x", "x", layer, "x")
    module = module_of("loha").LoHaModule(target, 4, 4.0, 1.0, Dropout(rank=0.5))
    nn.init.normal_(module.hada_w2_a)
    module.apply_to()
    change = layer(x) - base
    dropped = (change == 0).all(0)
    assert 200 < int(dropped.sum()) < 400
    torch.testing.assert_close(change[:, ~dropped], 2 * (x @ module.change().dense().T)[:, ~dropped], rtol=1e-4, atol=1e-4)
