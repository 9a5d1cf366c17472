"""The kernels run on a GPU if there is one, else in Triton's interpreter, and are compared with plain torch in fp32."""

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from library.kernels import pointwise, triton_here
from library.kernels.pointwise import Pointwise, kernels_for
from library.kernels.unet_pointwise import own_pointwise
from tests.offline import device_of_tests

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NO_TRITON = device_of_tests() == "pretend" or (device_of_tests() == "cuda" and not torch.cuda.is_available())
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(NO_TRITON, reason="needs a GPU that Triton knows, or its interpreter")]
PLAIN, FUSED = Pointwise(fused=False), Pointwise(fused=True)
CHANNELS_LAST = torch.channels_last


@pytest.fixture(scope="module", autouse=True)
def triton():
    return pytest.importorskip("triton", reason="the kernels need the package triton")


def frozen(norm: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm.requires_grad_(False).to(DEVICE)


def numbers(*shape, scale=1.0, mean=0.0, layout=torch.contiguous_format):
    """Numbers that fp16 holds exactly, so that both forms start from the same."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * scale + mean
    return drawn.half().float().to(DEVICE).contiguous(memory_format=layout)


def gradients(compute, inputs, dtype):
    """The result and the gradients of all inputs, computed from `dtype`."""
    leaves = [tensor.to(dtype).requires_grad_() for tensor in inputs]
    result = compute(*leaves)
    return [result, *torch.autograd.grad(result, leaves, numbers(*result.shape).to(dtype))]


def assert_same(compute, *inputs, dtype=torch.float16):
    """compute(pointwise, *inputs) gives by kernels, forward and backward, what plain torch gives in fp32."""
    expected = gradients(lambda *leaves: compute(PLAIN, *leaves), inputs, torch.float32)
    found = gradients(lambda *leaves: compute(FUSED, *leaves), inputs, dtype)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.float(), theirs, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("layout", [torch.contiguous_format, CHANNELS_LAST])
@pytest.mark.parametrize("silu", [False, True])
def test_group_norm_is_torchs(silu, layout):
    norm, x = frozen(nn.GroupNorm(2, 6)), numbers(2, 6, 3, 5, scale=3, mean=40, layout=layout)
    assert_same(lambda form, x: form.group_norm(x, norm, silu=silu), x)
    assert FUSED.group_norm(x.half(), norm).stride() == x.stride()


def test_a_shift_per_channel_goes_into_the_norm():
    norm = frozen(nn.GroupNorm(2, 6))
    assert_same(lambda form, x, shift: form.group_norm(x, norm, silu=True, shift=shift), numbers(2, 6, 3, 5), numbers(2, 6))


def test_a_group_larger_than_a_tile_is_summed_piece_by_piece(monkeypatch):
    from library.kernels import triton_kernels

    monkeypatch.setattr(triton_kernels, "TILE", 8)
    norm = frozen(nn.GroupNorm(1, 3))
    assert_same(lambda form, x: form.group_norm(x, norm, silu=True), numbers(1, 3, 3, 3, layout=CHANNELS_LAST))


def test_tensors_that_lie_neither_way_are_taken_too():
    norm = frozen(nn.GroupNorm(2, 4))
    assert_same(lambda form, x: form.group_norm(x.transpose(2, 3)[:, ::2], norm), numbers(1, 8, 3, 5))


def test_layer_norm_is_torchs_for_rows_far_from_zero():
    norm = frozen(nn.LayerNorm(10))
    assert_same(lambda form, x: form.layer_norm(x, norm), numbers(2, 3, 10, mean=30))


def test_the_gate_is_torchs():
    assert_same(lambda form, x: form.geglu(x), numbers(2, 3, 22, scale=2))


def test_fp32_and_trained_norms_are_left_to_torch(monkeypatch):
    monkeypatch.setattr(pointwise, "kernels", None)
    trained = nn.LayerNorm(4, device=DEVICE)
    assert FUSED.layer_norm(numbers(2, 4).to(torch.bfloat16), trained.bfloat16()).requires_grad
    assert torch.equal(FUSED.geglu(numbers(2, 4)), PLAIN.geglu(numbers(2, 4)))


def test_fake_tensors_see_the_shapes_of_the_real_results():
    norm, layer = frozen(nn.GroupNorm(2, 4)), frozen(nn.LayerNorm(6))
    cases = [
        (lambda x: FUSED.group_norm(x, norm), (2, 4, 3, 5)),
        (lambda x: FUSED.layer_norm(x, layer), (2, 6)),
        (lambda x: FUSED.geglu(x), (2, 3, 6)),
    ]
    for compute, shape in cases:
        real = gradients(compute, [numbers(*shape, layout=CHANNELS_LAST if len(shape) == 4 else torch.contiguous_format)], torch.float16)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            x = mode.from_tensor(real[1]).requires_grad_()
            fake = compute(x)
            fake.backward(torch.empty_like(fake))
        assert [(t.shape, t.stride(), t.dtype) for t in (fake, x.grad)] == [(t.shape, t.stride(), t.dtype) for t in real]


def residual_block(**settings):
    torch.manual_seed(0)
    return ResnetBlock2D(in_channels=8, out_channels=12, temb_channels=6, groups=2, **settings).requires_grad_(False).to(DEVICE)


@pytest.mark.parametrize("settings", [{}, {"output_scale_factor": 2.0}, {"down": True}, {"time_embedding_norm": "scale_shift"}])
def test_a_residual_block_computes_what_it_did(settings):
    block, inputs = residual_block(**settings), [numbers(2, 8, 6, 6), numbers(2, 6)]
    expected = gradients(block, inputs, torch.float32)
    own_pointwise(block, PLAIN)
    for ours, theirs in zip(gradients(block, inputs, torch.float32), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_a_residual_block_by_kernels_computes_what_it_did():
    block, inputs = residual_block(), [numbers(2, 8, 6, 6), numbers(2, 6)]
    expected = gradients(block, inputs, torch.float32)
    own_pointwise(block.half(), FUSED)
    for ours, theirs in zip(gradients(block, inputs, torch.float16), expected, strict=True):
        torch.testing.assert_close(ours.float(), theirs, rtol=1e-2, atol=1e-2)


def test_a_norm_that_a_stranger_wraps_keeps_his_forward():
    block, inputs = residual_block(), (numbers(2, 8, 6, 6), numbers(2, 6))
    own_pointwise(block, FUSED)
    block.norm2.forward = lambda x: x * 0
    zeros = torch.zeros(1, 12, 6, 6, device=DEVICE)
    torch.testing.assert_close(block(*inputs), (block.conv_shortcut(inputs[0]) + block.conv2(zeros)))


def test_the_norms_and_gates_of_a_transformer_are_found(monkeypatch):
    seen = []
    settings = {"in_channels": 8, "cross_attention_dim": 8, "norm_num_groups": 4}
    model = Transformer2DModel(2, 4, **settings).requires_grad_(False)
    assert any(isinstance(module, BasicTransformerBlock) for module in model.modules())
    x, context = numbers(1, 8, 2, 2).cpu(), numbers(1, 3, 8).cpu()
    expected = model(x, context, return_dict=False)[0]

    class Noting(Pointwise):
        def _fuses(self, x, norm=None):
            seen.append(type(norm).__name__)
            return False

    own_pointwise(model, Noting())
    assert torch.equal(model(x, context, return_dict=False)[0], expected)
    assert seen == ["GroupNorm", "LayerNorm", "LayerNorm", "LayerNorm", "NoneType"]


def test_kernels_are_for_half_precision(monkeypatch):
    gpu = torch.device("cuda")
    monkeypatch.setattr(pointwise, "trial", lambda device, dtype: True)
    monkeypatch.setattr(triton_here, "may_run", lambda device, dtype: device.type == "cuda")
    assert kernels_for(gpu, torch.float16)
    assert not kernels_for(gpu, torch.float32)
    assert not kernels_for(torch.device("cpu"), torch.float16)


def test_kernels_whose_numbers_are_wrong_are_not_used(monkeypatch, caplog):
    right = pointwise.kernels.geglu_backward
    monkeypatch.setattr(pointwise.kernels, "geglu_backward", lambda *tensors: 1.1 * right(*tensors))
    assert not pointwise.trial(torch.device(DEVICE), torch.float16)
    assert "Triton does not work here (its numbers in torch.float16 are not those of plain torch)" in caplog.text


@pytest.mark.parametrize("kind", [RuntimeError, AssertionError])  # the second where libcuda is not found
def test_where_triton_fails_one_line_says_so(kind, monkeypatch, caplog):
    assert pointwise.trial(torch.device(DEVICE), torch.float16)

    def fail(*arguments):
        raise kind("Failed to find C compiler.\nPlease specify")

    monkeypatch.setattr(pointwise.kernels, "group_norm", fail)
    assert not pointwise.trial(torch.device(DEVICE), torch.float16)
    assert [record.getMessage() for record in caplog.records] == [
        "norms and gates are computed by plain torch, a little slower: Triton does not work here (Failed to find C compiler.)"
    ]
