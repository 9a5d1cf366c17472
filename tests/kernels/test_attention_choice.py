import pytest
import torch
import torch.nn.functional as F

from library.kernels.attention_choice import BACKENDS, Fastest, Pinned, attend_function


def states(length=6, dtype=torch.float32):
    torch.manual_seed(0)
    return torch.randn(3, 1, 2, length, 8, dtype=dtype).unbind()


def test_on_the_cpu_every_choice_is_plain_attention():
    for choice in (None, "auto", "xformers", *BACKENDS):
        assert attend_function(choice, "cpu") is F.scaled_dot_product_attention


@pytest.mark.parametrize("name", ["flash", "math"])
def test_a_pinned_kernel_gives_what_torch_chooses(name):
    torch.testing.assert_close(Pinned(name)(*states()), F.scaled_dot_product_attention(*states()))


def test_a_kernel_that_cannot_do_it_says_so_and_names_a_way_out():
    with pytest.raises(ValueError, match="--attention efficient .* 8 channels in torch.float32 on cpu: use --attention auto"):
        Pinned("efficient")(*states())


def test_each_shape_is_timed_once_and_gets_its_fastest():
    used, timed = [], []

    def candidate(name):
        def attend(query, key, value):
            used.append(name)
            return F.scaled_dot_product_attention(query, key, value)

        return attend

    def seconds(attend, tensors):
        attend(*tensors)
        timed.append(used.pop())
        return tensors[0].shape[2] if timed[-1] == "long" else 10.0

    fastest = Fastest({"long": candidate("long"), "short": candidate("short")}, seconds)
    for length in (6, 20, 6, 20):
        fastest(*states(length))
    assert timed == ["long", "short"] * 2
    assert used == ["long", "short"] * 2


def test_candidates_that_cannot_do_it_are_left_out():
    def seconds(attend, tensors):
        attend(*tensors)
        return 1.0

    fastest = Fastest({"efficient": Pinned("efficient"), "math": Pinned("math")}, seconds)
    torch.testing.assert_close(fastest(*states()), F.scaled_dot_product_attention(*states()))
    only_failing = Fastest({"efficient": Pinned("efficient")}, seconds)
    torch.testing.assert_close(only_failing(*states()), F.scaled_dot_product_attention(*states()))


@pytest.mark.parametrize("fault", [torch.OutOfMemoryError("no memory"), RuntimeError("cuDNN error"), ImportError("made for another torch")])
def test_candidates_that_break_are_left_out_too(fault):
    def seconds(attend, tensors):
        attend(*tensors)
        return 1.0

    def broken(query, key, value):
        raise fault

    fastest = Fastest({"broken": broken, "math": Pinned("math")}, seconds)
    torch.testing.assert_close(fastest(*states()), F.scaled_dot_product_attention(*states()))


def test_a_compiler_meets_torchs_own_choice():
    fastest = Fastest({"efficient": Pinned("efficient")}, lambda *given: pytest.fail("timed"))
    graphs = []
    torch._dynamo.reset()
    compiled = torch.compile(fastest, backend=lambda graph, inputs: (graphs.append(graph), graph.forward)[1])
    torch.testing.assert_close(compiled(*states()), F.scaled_dot_product_attention(*states()))
    assert len(graphs) == 1
