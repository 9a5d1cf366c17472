"""The comparison with golden recordings finds what differs, and lets rounding pass."""

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from library.data.batch import Batch
from library.training.positions import Position
from tests.golden_compare import differences, limits_for
from tests.golden_recorder import Recorder, l2_norm, statistics
from tests.golden_runs import table
from tests.golden_workshop import recorded_names, recorded_run

GOLDEN = Path(__file__).parent / "golden"
NAMES = [name for name in recorded_names(GOLDEN) if not name.endswith("_error")]


def as_if_made(recorded: dict) -> dict:
    """A recording of ours that agrees with `recorded` in everything."""
    made = {"npz_arrays": {}, **copy.deepcopy(recorded)}
    per_micro_step = recorded.get("max_norm_per_micro_step") or []
    made["max_norm_per_micro_step"] = [dict(zip(("keys_scaled", "mean", "max"), row, strict=True)) for row in per_micro_step]
    return made


def found_after(change, name: str = "a_plain") -> list[str]:
    recorded = recorded_run(GOLDEN, name)
    made = as_if_made(recorded)
    change(made)
    return differences(recorded, made, limits_for(recorded, other_decoder=False))


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_equals_itself(name):
    assert found_after(lambda made: None, name) == []


def test_a_differing_loss_is_told_with_its_step_and_both_values():
    def change(made):
        made["steps"][4]["loss"] *= 1.001

    recorded = recorded_run(GOLDEN, "a_plain")["steps"][4]["loss"]
    (message,) = found_after(change)
    assert message.startswith("step 5: loss: ours ") and f"recorded {recorded:.9g}" in message


def test_losses_after_the_tenth_step_may_differ_more():
    def change(made):
        made["steps"][9]["loss"] *= 1 + 1e-4
        made["steps"][10]["loss"] *= 1 + 1e-4

    assert [message.partition(":")[0] for message in found_after(change)] == ["step 10"]


def test_a_differing_validation_is_told():
    def change(made):
        made["val_loss"][3] *= 1.001
        made["val_timesteps"].pop()

    timesteps, loss = found_after(change, "a_validation")
    assert timesteps.startswith("validation: timesteps") and loss.startswith("validation: losses[3]: ours ")


def test_not_a_number_is_a_difference():
    def change(made):
        made["optimizer_steps"][0]["net_l2"] = float("nan")

    assert len(found_after(change)) == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [("captions", ["other", "words"]), ("flipped", [True, False]), ("timesteps", [1, 2]), ("dataset_step", 7), ("n_tokens", [[1, 1]])],
)
def test_what_the_data_set_handed_out_must_be_equal(key, value):
    def change(made):
        made["steps"][0][key] = value

    (message,) = found_after(change)
    assert message.startswith(f"step 1: {key}")


def test_an_update_in_the_wrong_place_is_found():
    def change(made):
        made["optimizer_steps"][0]["after_micro_step"] = 1

    assert "update 1 (after step 3): no update happened here" in found_after(change, "a_accum3")


def test_missing_and_added_names_are_found():
    def change(made):
        made["files_saved"].append("more.txt")
        made["final"]["metadata_keys"].remove("ss_seed")
        made["final"]["tensors"].pop("lora_te_text_model_encoder_layers_0_mlp_fc1.alpha")

    assert found_after(change) == [
        "unexpected file more.txt",
        "missing metadata key ss_seed",
        "missing tensor lora_te_text_model_encoder_layers_0_mlp_fc1.alpha",
    ]


def test_the_floor_on_norms_holds_only_where_the_gradient_is_rounding():
    def change(made):
        for name, row in made["final"]["tensors"].items():
            if name.endswith(("resnets_0_time_emb_proj.lora_up.weight", "0_resnets_0_conv1.lora_up.weight")):
                row[2] += 2.9e-3

    assert all("conv1" in message for message in found_after(change, "c_all_dropout_conv"))
    assert found_after(change, "c_all_dropout_conv")


def test_two_runs_whose_rounding_grows_are_compared_for_four_steps():
    limits = limits_for({"name": "a_reso64_b4", "args": []}, other_decoder=False)
    assert (limits.steps_compared, limits.early_loss) == (4, 3e-4)


def test_the_table_has_a_line_for_each_step():
    recorded = recorded_run(GOLDEN, "a_plain")
    assert len(table(recorded, as_if_made(recorded))) == 1 + len(recorded["steps"])


def test_statistics_are_those_of_the_recordings():
    assert statistics(torch.tensor([[1.0, 2.0], [3.0, 6.0]])) == {
        "mean": 3.0,
        "std": pytest.approx((14 / 3) ** 0.5),
        "first": [1.0, 2.0, 3.0, 6.0],
        "n": 4,
    }


class FakeNetwork(torch.nn.Linear):
    """A network whose norm limit halves all weights."""

    def apply_max_norm_regularization(self, limit, device):
        self.weight.data /= 2
        return 1, 0.5, 0.75


class FakeDataset(SimpleNamespace):
    """One data set of one image."""

    def __len__(self):
        return 1


def fake_run() -> SimpleNamespace:
    network = FakeNetwork(3, 1, bias=False)
    record = SimpleNamespace(
        path=Path("folder/a.png"), size=(4, 4), bucket=(4, 4), resized=(4, 4), num_repeats=1, is_reg=False, caption="a cat"
    )
    dataset = FakeDataset(
        records={"folder/a.png": record},
        buckets=[SimpleNamespace(resolution=(4, 4), keys=["folder/a.png"])],
        seed=1,
        num_train_images=1,
        num_reg_images=0,
        settings=SimpleNamespace(batch_size=1, resolution=(4, 4), enable_bucket=True, bucket_no_upscale=False),
    )
    data = SimpleNamespace(datasets=[dataset], num_train_images=1, num_reg_images=0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    run = SimpleNamespace(network=network, optimizer=optimizer, train_data=data, total_steps=1, watchers=[], update_watchers=[])
    run.validation, run.start = SimpleNamespace(watchers=[]), Position()
    run.family = None  # asked for the ids of the captions only where the batch brings none
    return run


def one_step(run) -> None:
    """What the recipe's loop does in one micro step with an update."""
    sizes = torch.tensor([[4, 4]])
    batch = Batch(
        captions=["a cat"],
        image_keys=["folder/a.png"],
        loss_weights=torch.ones(1),
        original_sizes_hw=sizes,
        crop_top_lefts=sizes * 0,
        target_sizes_hw=sizes,
        flipped=[False],
        bucket=(4, 4),
        images=torch.zeros(1, 3, 4, 4),
        input_ids=[torch.tensor([[[49406, 320, 2368, 49407, 49407]]])],
    )
    loss = run.network(torch.ones(1, 3)).sum()
    loss.backward()
    noise = torch.ones(1, 4, 2, 2)
    step = SimpleNamespace(
        batch=batch, loss=loss.detach(), latents=noise, noise=noise, noisy_latents=noise, timesteps=torch.tensor([9]), global_step=0
    )
    for watcher in run.watchers:
        watcher(step)
    run.optimizer.step()
    run.network.apply_max_norm_regularization(1.0, "cpu")
    for watcher in run.update_watchers:
        watcher(SimpleNamespace(global_step=1, grad_norm=torch.tensor(2.0), learning_rates=[0.5], max_norm=None))


def test_the_recorder_measures_the_network_before_the_norm_limit_acts(tmp_path):
    run = fake_run()
    recorder = Recorder(run)
    one_step(run)
    (update,) = recorder.recording(tmp_path, tmp_path, None)["optimizer_steps"]
    assert update["net_l2"] == pytest.approx(2 * l2_norm(run.network.parameters()))


def test_the_recorder_notes_each_micro_step(tmp_path):
    run = fake_run()
    recorder = Recorder(run)
    one_step(run)
    made = recorder.recording(tmp_path, tmp_path, None)
    assert made["max_norm_per_micro_step"] == [{"keys_scaled": 1.0, "mean": 0.5, "max": 0.75}]
    step = made["steps"][0]
    assert (step["images"], step["n_tokens"], step["ids_shape"], step["timesteps"]) == (["a.png"], [[3]], [[1, 1, 5]], [9])
