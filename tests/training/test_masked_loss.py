"""--masked_loss from a dataset config to the loss."""

from PIL import Image

from library.training.network_recipe import prepare, train
from tests.data.scenes import paint
from tests.golden_workshop import read_command_line


def losses(folder, model, shades) -> list[float]:
    """The losses of one epoch over an image for each shade of mask, larger than its bucket and cut from the middle."""
    for number, shade in enumerate(shades):
        paint(folder / "images" / f"{number}.png", (96, 64), seed=number)
        (folder / "masks").mkdir(exist_ok=True)
        Image.new("L", (96, 64), shade).save(folder / "masks" / f"{number}.png")
    (folder / "data.toml").write_text(f"""
        [[datasets]]
        resolution = 64
        [[datasets.subsets]]
        image_dir = '{folder / "images"}'
        conditioning_data_dir = '{folder / "masks"}'
        flip_aug = true
    """)
    argv = f"""--pretrained_model_name_or_path {model} --dataset_config {folder / "data.toml"} --output_dir {folder / "out"}
        --network_module networks.lora --learning_rate 1e-3 --max_train_epochs 1 --max_data_loader_n_workers 0 --masked_loss --seed 1
        --cache_latents --network_train_unet_only"""
    run = prepare(*read_command_line("sd", argv.split()))
    seen = []
    run.watchers.append(lambda step: seen.append(float(step.loss)))
    train(run)
    return seen


def test_what_a_black_mask_hides_has_no_loss(tmp_path, tiny_models):
    seen = losses(tmp_path, tiny_models("sd1"), (0, 255))
    assert min(seen) == 0 and max(seen) > 0.1
