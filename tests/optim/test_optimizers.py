"""The table of optimizers, the rules for building them, and what files record about them."""

import logging
import sys

import pytest
import torch

from library.optim.optimizers import OPTIMIZERS, build_optimizer, optimizer_class


def groups(*rates):
    return [{"params": [torch.nn.Parameter(torch.ones(3, 2))], "lr": rate} for rate in rates or (1.0,)]


def build(optimizer_type="", arguments=(), rates=(1.0,), learning_rate=1.0, **options):
    return build_optimizer(optimizer_type, list(arguments), groups(*rates), learning_rate=learning_rate, **options)


RECORDED = {  # option and arguments, and the name in the metadata of the original's files
    ("", ()): "torch.optim.adamw.AdamW",
    ("adamw", ("weight_decay=0.1", "betas=.8,.95", "eps=1e-6")): "torch.optim.adamw.AdamW(weight_decay=0.1,betas=(0.8, 0.95),eps=1e-06)",
    ("Lion", ()): "lion_pytorch.lion_pytorch.Lion",
    ("SGDNesterov", ()): "torch.optim.sgd.SGD(momentum=0.9)",
    ("SGDNesterov", ("momentum=0.8", "weight_decay=0.01")): "torch.optim.sgd.SGD(momentum=0.8,weight_decay=0.01)",
    ("DAdaptation", ()): "dadaptation.experimental.dadapt_adam_preprint.DAdaptAdamPreprint",
    ("DAdaptAdam", ("decouple=True", "d0=1e-4")): "dadaptation.dadapt_adam.DAdaptAdam(decouple=True,d0=0.0001)",
    ("DAdaptAdanIP", ()): "dadaptation.experimental.dadapt_adan_ip.DAdaptAdanIP",
    ("Prodigy", ()): "prodigyopt.prodigy.Prodigy",
    ("AdaFactor", ()): "transformers.optimization.Adafactor(relative_step=True)",
    ("AdaFactor", ("warmup_init=True",)): "transformers.optimization.Adafactor(warmup_init=True,relative_step=True)",
    ("AdamWScheduleFree", ("warmup_steps=3",)): "schedulefree.adamw_schedulefree.AdamWScheduleFree(warmup_steps=3)",
    ("torch.optim.Adamax", ()): "torch.optim.adamax.Adamax",
    ("RMSprop", ()): "torch.optim.rmsprop.RMSprop",
}


@pytest.mark.parametrize("given", RECORDED, ids=lambda given: " ".join([given[0], *given[1]]))
def test_files_record_the_known_name(given):
    assert build(*given).name == RECORDED[given]


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if "8bit" not in name and "paged" not in name])
def test_every_optimizer_moves_the_weights(name):
    built = build(name, rates=(0.1,))
    parameter = built.optimizer.param_groups[0]["params"][0]
    for _ in range(8):  # RAdam's first five steps are still ones
        built.optimizer.zero_grad()
        (parameter**2).sum().backward()
        built.optimizer.step()
    assert parameter.isfinite().all() and not torch.equal(parameter, torch.ones(3, 2))


@pytest.mark.parametrize("name", ["AdamW", "torch.optim.Adam"])
def test_torchs_fused_form_is_taken_unless_another_is_asked_for(name):
    def forms(arguments, **options):
        group = build(name, arguments, **options).optimizer.param_groups[0]
        return group["fused"], group["foreach"]

    assert forms(()) == (True, None)
    assert forms(("foreach=True",))[0] is not True
    assert forms(("fused=False",))[0] is False
    assert forms((), fused=False)[0] is not True


@pytest.mark.parametrize("name", ["AdamW", "torch.optim.Adam", "SGDNesterov"])
def test_a_parameter_may_have_its_first_gradient_in_a_later_step(name):
    early, late = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = build_optimizer(name, [], [{"params": [early, late]}], learning_rate=0.1).optimizer
    for trained in ([early], [early, late]):
        for parameter in trained:
            parameter.grad = torch.ones(3)
        optimizer.step()
    assert early.isfinite().all() and not torch.equal(late, torch.ones(3))


BITS_AND_BYTES = [name for name in OPTIMIZERS if "8bit" in name or "paged" in name]


@pytest.mark.parametrize("name", [*BITS_AND_BYTES, "bitsandbytes.optim.AdEMAMix8bit"])
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_bitsandbytes_runs_here_and_keeps_8_bit_states(name):
    built = build_optimizer(name, [], [{"params": [torch.nn.Parameter(torch.ones(64, 128))]}], learning_rate=0.1)
    parameter = built.optimizer.param_groups[0]["params"][0]
    for _ in range(3):
        parameter.grad = parameter.detach().clone()
        built.optimizer.step()
    states = [state for state in built.optimizer.state[parameter].values() if torch.is_tensor(state)]
    kept = {state.dtype for state in states if state.numel() >= parameter.numel()}
    assert (parameter < 1).all() and kept == {torch.uint8 if "8bit" in name else torch.float32}


def test_the_8bit_switch_is_adamw8bit():
    assert build(use_8bit_adam=True).class_name == "bitsandbytes.optim.adamw.AdamW8bit"


@pytest.mark.parametrize("name", ["AdamW8bit", "PagedLion8bit"])
def test_bitsandbytes_missing_is_named_with_the_way_to_it(name, monkeypatch):
    monkeypatch.delitem(sys.modules, "library.optim.eight_bit", raising=False)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ImportError, match=f"--optimizer_type {name} needs .*pip install bitsandbytes"):
        optimizer_class(name)


def test_groups_keep_their_rates_and_the_callers_dicts_stay_as_they_are():
    given = groups(0.1, 0.2)
    built = build_optimizer("AdamW", [], given, learning_rate=0.5)
    assert [group["lr"] for group in built.optimizer.param_groups] == [0.1, 0.2]
    assert [set(group) for group in given] == [{"params", "lr"}] * 2


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "absent", "no_such_package.Optimizer")
    with pytest.raises(ImportError, match=r"--optimizer_type Absent needs .*no_such_package.*pip install no_such_package"):
        optimizer_class("Absent")


@pytest.mark.parametrize(
    "name, hint", [("Radam", "RAdam"), ("prodgy", "prodigy"), ("DAdaptFoo", "dadapt"), ("lr_scheduler", "dotted path")]
)
def test_an_unknown_name_is_refused_with_a_hint(name, hint):
    with pytest.raises(ValueError, match=rf"--optimizer_type '{name}'.*{hint}"):
        optimizer_class(name)


def test_a_class_missing_from_its_package_is_named():
    with pytest.raises(ValueError, match=r"torch.optim has no class Nothing"):
        optimizer_class("torch.optim.Nothing")


@pytest.mark.parametrize("item", ["foo", "betas", "=1", "eps=true", "eps=", "a b=1"])
def test_a_malformed_argument_is_named(item):
    with pytest.raises(ValueError, match=rf"--optimizer_args.*{item!r}"):
        build("AdamW", [item])


def test_blanks_around_an_argument_do_not_matter():
    assert build("AdamW", ["weight_decay = 0.1"]).arguments_text == "weight_decay=0.1"


def test_a_wrong_argument_is_named_with_the_valid_ones():
    with pytest.raises(ValueError, match=r"weight_decoy=0.1: AdamW has no argument 'weight_decoy'.*did you mean 'weight_decay'.*betas"):
        build("AdamW", ["weight_decoy=0.1"])


def test_the_rate_cannot_come_in_by_the_back_door():
    with pytest.raises(ValueError, match=r"lr=0.1.*--learning_rate"):
        build("AdamW", ["lr=0.1"])


def test_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="nothing to train"):
        build_optimizer("AdamW", [], [], learning_rate=0.0)


@pytest.mark.parametrize("switches", [(True, True, ""), (True, False, "AdamW"), (False, True, "Lion")])
def test_old_switches_contradict_each_other_and_the_type(switches):
    with pytest.raises(ValueError, match="exclude each other"):
        build(switches[2], use_8bit_adam=switches[0], use_lion_optimizer=switches[1])


def test_the_lion_switch_is_lion():
    assert build(use_lion_optimizer=True).class_name == "lion_pytorch.lion_pytorch.Lion"


def test_adafactor_sets_its_own_rates_unless_told_otherwise(caplog):
    built = build("AdaFactor", rates=(0.1, 0.2), learning_rate=0.001, lr_scheduler="cosine", lr_warmup_steps=10)
    assert (built.learning_rate, built.lr_scheduler, built.lr_warmup_steps) == (None, "adafactor:0.001", 0)
    assert [group["lr"] for group in built.optimizer.param_groups] == [None, None]
    assert "--lr_warmup_steps 10 has no effect" in caplog.text and "--unet_lr" in caplog.text


def test_adafactor_with_a_given_rate_keeps_it(caplog):
    built = build("AdaFactor", ["relative_step=False"], rates=(0.1, 0.2), learning_rate=0.3, lr_scheduler="constant")
    assert [group["lr"] for group in built.optimizer.param_groups] == [0.1, 0.2]
    assert "--max_grad_norm" in caplog.text and "constant_with_warmup" in caplog.text


def test_adafactors_warm_up_forces_relative_steps():
    built = build("AdaFactor", ["relative_step=False", "warmup_init=True"])
    assert built.arguments_text == "relative_step=True,warmup_init=True" and built.learning_rate is None


def test_a_low_rate_for_a_rate_finder_is_pointed_out(caplog):
    build("Prodigy", rates=(1e-4,))
    assert "0.0001 is very low" in caplog.text


@pytest.mark.parametrize("name", ["Prodigy", "prodigyopt.Prodigy", "DAdaptAdam", "DAdaptation", "DAdaptLion", "DAdaptSGD"])
def test_two_rates_are_refused_before_the_first_step_does(name):
    with pytest.raises(ValueError, match=r"one learning rate only.*0.5, 1.0.*--unet_lr"):
        build(name, rates=(1.0, 0.5))


@pytest.mark.parametrize("name", ["DAdaptAdaGrad", "DAdaptAdan", "DAdaptAdanIP"])
def test_two_rates_that_would_run_are_pointed_out(name, caplog):
    build(name, rates=(1.0, 0.5))
    assert "of 1.0, 0.5 the first is used" in caplog.text


def test_equal_rates_of_a_rate_finder_pass_without_a_word(caplog):
    caplog.set_level(logging.WARNING)
    assert build("Prodigy", rates=(1.0, 1.0)).adapts_rate
    assert not caplog.text


def test_schedule_free_optimizers_start_in_train_mode():
    built = build("RAdamScheduleFree")
    assert built.schedule_free and built.optimizer.param_groups[0]["train_mode"]
