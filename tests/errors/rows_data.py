"""Rows of docs/errors.md: images, captions, the files that describe them, and prompts of previews."""

from tests.errors.faults import cut, huge_picture, without
from tests.errors.world import LATER, SOON
from tests.errors.world import WrongInput as Row

BESIDE = "images/4_thing/x.png"
TOML = {"train_data_dir": None, "dataset_config": "data.toml"}
JSON = {"train_data_dir": None, "dataset_config": "data.json"}
METADATA = {"in_json": "m.json", "train_data_dir": "images/4_thing"}
SUBSET = '[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "images/4_thing"\n'


def prompts(name: str) -> dict:
    return {"sample_every_n_steps": 1, "sample_prompts": name}


IMAGES = [
    Row(
        "`--train_data_dir` that is not there",
        "--train_data_dir none: there is no such folder (looked for from FOLDER)",
        {"train_data_dir": "none"},
    ),
    Row(
        "no folder named like `10_name` in it",
        "--train_data_dir pics holds no folder named like 10_name (10 is how often each image is repeated)",
        {"train_data_dir": "pics"},
        {"pics/readme.txt": ""},
    ),
    Row(
        "the images lie in `--train_data_dir` itself",
        (
            "--train_data_dir images/4_thing holds no folder named like 10_name (10 is how often each image is repeated); it holds "
            "3 images itself: move them into images/4_thing/10_name"
        ),
        {"train_data_dir": "images/4_thing"},
    ),
    Row(
        "a folder without images",
        (
            "no training image was found. These were looked at:\n  pics/10_cat (num_repeats 10)\nEach must hold images, and "
            "num_repeats must be 1 or more"
        ),
        {"train_data_dir": "pics"},
        {"pics/10_cat/readme.txt": ""},
    ),
    Row(
        "`--reg_data_dir` that is not there",
        "--reg_data_dir none: there is no such folder (looked for from FOLDER)",
        {"reg_data_dir": "none"},
    ),
    Row(
        "an image file that is no image",
        (
            "1 images cannot be used:\n  images/4_thing/x.png: empty, cut off or no image\nrepair or delete them, or leave them "
            "out with --skip_bad_images"
        ),
        {},
        {BESIDE: "hello"},
    ),
    Row(
        "an empty image file",
        (
            "1 images cannot be used:\n  images/4_thing/x.png: empty, cut off or no image\nrepair or delete them, or leave them "
            "out with --skip_bad_images"
        ),
        {},
        {BESIDE: b""},
    ),
    Row(
        "an image cut off in copying, `--cache_latents`",
        (
            "1 images cannot be used:\n  images/4_thing/x.png: image file is truncated\nrepair or delete them, or leave them out "
            "with --skip_bad_images"
        ),
        {"cache_latents": True},
        {BESIDE: cut("images/4_thing/p0.png")},
        when=LATER,
    ),
    Row(
        "an image of 3,600 million pixels",
        (
            "1 images cannot be used:\n  images/4_thing/x.png: 3600 million pixels, more than the 179 million pixels that are "
            "opened: scale it down\nrepair or delete them, or leave them out with --skip_bad_images"
        ),
        {},
        {BESIDE: huge_picture},
    ),
    Row(
        "images of another size than `--resolution`, without buckets",
        (
            "3 images cannot be used:\n  images/4_thing/p0.png: is 64x64 but --resolution is 96x96: turn on --enable_bucket, "
            "resize the image, or for a larger one turn on --random_crop\n  images/4_thing/p1.png: is 64x64 but --resolution is "
            "96x96: turn on --enable_bucket, resize the image, or for a larger one turn on --random_crop\n  images/4_thing/p2.png: "
            "is 64x64 but --resolution is 96x96: turn on --enable_bucket, resize the image, or for a larger one turn on "
            "--random_crop\nrepair or delete them, or leave them out with --skip_bad_images"
        ),
        {"resolution": "96,96"},
    ),
    Row(
        "all images held out for validation",
        (
            "no training image was found. These were looked at:\n  images/4_thing (num_repeats 4, validation_split 1 holds them "
            "out)\nEach must hold images, and num_repeats must be 1 or more"
        ),
        {"validation_split": 1.0},
    ),
    Row(
        "`--min_bucket_reso` above the resolution",
        "--min_bucket_reso 512 is larger than the shorter side of --resolution 64x64: lower it",
        {"enable_bucket": True, "min_bucket_reso": 512},
    ),
    Row(
        "a caption that is not UTF-8",
        (
            "1 images cannot be used:\n  images/4_thing/p0.png: its caption images/4_thing/p0.txt is not UTF-8 text, save it again "
            "as UTF-8\nrepair or delete them, or leave them out with --skip_bad_images"
        ),
        {},
        {"images/4_thing/p0.txt": b"caf\xe9"},
    ),
    Row(
        "a weight that is no number, `--weighted_captions`",
        (
            "1 images cannot be used:\n  images/4_thing/p0.png: the weight '1.2.3' is not a number, in the caption or prompt "
            "'(red:1.2.3)'; write a weight like (text:1.3)\nrepair or delete them, or leave them out with --skip_bad_images"
        ),
        {"weighted_captions": True},
        {"images/4_thing/p0.txt": "(red:1.2.3)"},
    ),
    Row(
        "`--dataset_class` of a module that is not there",
        "--dataset_class nodata.Data: there is no module 'nodata' here, is its folder in PYTHONPATH?",
        {"dataset_class": "nodata.Data"},
    ),
    Row(
        "`--dataset_class` of something else",
        (
            "--dataset_class collections.OrderedDict failed with TypeError (…). It is called with (None, max_token_length, "
            "resolution, debug_dataset)"
        ),
        {"dataset_class": "collections.OrderedDict"},
        when=SOON,
    ),
]

METADATA_FILES = [
    Row("`--in_json` that is not there", "--in_json none.json: there is no such file", {"in_json": "none.json"}),
    Row(
        "a metadata file that is no JSON",
        "metadata_file m.json cannot be used, it is not whole JSON in UTF-8: …",
        METADATA,
        {"m.json": "{"},
    ),
    Row(
        "a metadata file that holds a list",
        'metadata_file m.json must hold one object {"image": {"caption": ..., "tags": ...}, ...}',
        METADATA,
        {"m.json": "[1]"},
    ),
    Row(
        "an image that is not there",
        (
            "1 images cannot be used:\n  cat: there is no such image in images/4_thing\nrepair or delete them, or leave them out "
            "with --skip_bad_images"
        ),
        METADATA,
        {"m.json": '{"cat": {"caption": "a"}}'},
    ),
    Row(
        "a name that leads out of the folder",
        (
            "1 images cannot be used:\n  ../../other: there is no such image in images/4_thing\nrepair or delete them, or leave "
            "them out with --skip_bad_images"
        ),
        METADATA,
        {"m.json": '{"../../other": {"caption": "a"}}'},
    ),
    Row(
        "a caption that is a number",
        "metadata_file m.json: caption of 'p0' must be text, got 3",
        METADATA,
        {"m.json": '{"p0": {"caption": 3}}'},
    ),
    Row(
        "tags as a list", "metadata_file m.json: tags of 'p0' must be text, got ['red']", METADATA, {"m.json": '{"p0": {"tags": ["red"]}}'}
    ),
    Row(
        "a size without pixels",
        "metadata_file m.json: image_size of 'p0' must be [width, height], got [0, 1]",
        METADATA,
        {"m.json": '{"p0": {"caption": "a", "image_size": [0, 1]}}'},
    ),
]

DATASET_CONFIGS = [
    Row("`--dataset_config` that is not there", "--dataset_config data.toml: there is no such file (looked for from FOLDER)", TOML),
    Row(
        "another ending",
        "--dataset_config data.yaml: the file name must end in .toml or .json",
        TOML | {"dataset_config": "data.yaml"},
        {"data.yaml": ""},
    ),
    Row("no TOML", "--dataset_config data.toml is not valid TOML: …", TOML, {"data.toml": "[[datasets]\n"}),
    Row(
        "a Windows path in quotes",
        "--dataset_config data.toml is not valid TOML: … (write Windows paths with / or in 'single quotes')",
        TOML,
        {"data.toml": SUBSET + 'class_tokens = "C:\\users\\me"'},
    ),
    Row("no UTF-8", "--dataset_config data.toml is not UTF-8 text (…): save it again as UTF-8", TOML, {"data.toml": b"# \xe9"}),
    Row("no JSON", "--dataset_config data.json is not valid JSON: …", JSON, {"data.json": '{"datasets": [}'}),
    Row(
        "lists nested a hundred thousand deep",
        "--dataset_config data.json: its tables or lists are nested too deeply",
        JSON,
        {"data.json": "[" * 100000},
    ),
    Row(
        "an empty file",
        "--dataset_config data.toml: a mistake\n  datasets is missing or empty: at least one [[datasets]] is needed",
        TOML,
        {"data.toml": ""},
    ),
    Row(
        "a misspelt key",
        (
            "--dataset_config data.toml: a mistake\n  datasets[0].subsets[0]: unknown key 'num_repeat' (given 3): did you mean "
            "'num_repeats'?"
        ),
        TOML,
        {"data.toml": SUBSET + "num_repeat = 3\n"},
    ),
    Row(
        "a key in the wrong table",
        (
            "--dataset_config data.toml: a mistake\n  datasets[0].subsets[0]: unknown key 'batch_size' (given 3): it belongs in "
            "[general] or [[datasets]]"
        ),
        TOML,
        {"data.toml": SUBSET + "batch_size = 3\n"},
    ),
    Row(
        "text where a number belongs",
        ('--dataset_config data.toml: a mistake\n  datasets[0].subsets[0]: num_repeats = "3" is not allowed: it must be a whole number'),
        TOML,
        {"data.toml": SUBSET + 'num_repeats = "3"\n'},
    ),
    Row(
        "a share above 1",
        (
            "--dataset_config data.toml: a mistake\n  datasets[0].subsets[0]: caption_dropout_rate = 7 is not allowed: it must be "
            "a number from 0 to 1"
        ),
        TOML,
        {"data.toml": SUBSET + "caption_dropout_rate = 7\n"},
    ),
    Row(
        "no `image_dir`",
        "--dataset_config data.toml: a mistake\n  datasets[0].subsets[0]: image_dir is missing",
        TOML,
        {"data.toml": SUBSET.replace("image_dir", "class_tokens")},
    ),
    Row(
        "an `image_dir` that is not there",
        (
            "no training image was found. These were looked at:\n  images/none (there is no such folder)\nEach must hold images, "
            "and num_repeats must be 1 or more"
        ),
        TOML,
        {"data.toml": SUBSET.replace("4_thing", "none")},
    ),
    Row(
        "no resolution anywhere",
        ("--dataset_config data.toml: a mistake\n  datasets[0]: resolution is missing: give it here, in [general] or as --resolution 512"),
        TOML | {"resolution": None},
        {"data.toml": SUBSET.replace("resolution = 64", "")},
    ),
    Row(
        "masks without `--masked_loss`",
        "--dataset_config data.toml: a mistake\n  datasets[0]: conditioning_data_dir (masks) needs the option --masked_loss",
        TOML,
        {"data.toml": SUBSET + 'conditioning_data_dir = "images"\n'},
    ),
    Row(
        "images without their masks",
        (
            "3 images cannot be used:\n  images/4_thing/p0.png: it has no mask in sd1\n  images/4_thing/p1.png: it has no mask in "
            "sd1\n  images/4_thing/p2.png: it has no mask in sd1\nrepair or delete them, or leave them out with --skip_bad_images"
        ),
        TOML | {"masked_loss": True},
        {"data.toml": SUBSET + 'conditioning_data_dir = "sd1"\n'},
    ),
    Row(
        "colours that change, `--cache_latents`",
        ("latents cannot be cached:\n--color_aug in images/4_thing changes the image each time: turn it off or do not cache latents"),
        TOML | {"cache_latents": True},
        {"data.toml": SUBSET + "color_aug = true\n"},
    ),
    Row(
        "regularisation images only",
        (
            "no training image was found. These were looked at:\n  images/4_thing (regularisation images, which do not train alone)"
            "\nEach must hold images, and num_repeats must be 1 or more"
        ),
        TOML,
        {"data.toml": SUBSET + "is_reg = true\n"},
    ),
]

PROMPTS = [
    Row(
        "previews without prompts",
        "previews are switched on but have no prompts: add --sample_prompts FILE, or leave --sample_every_n_* out",
        {"sample_every_n_steps": 1},
    ),
    Row("`--sample_prompts` that is not there", "--sample_prompts none.txt: there is no such file", prompts("none.txt")),
    Row("another ending", "--sample_prompts p.doc: the name must end in .txt, .toml, .json", prompts("p.doc"), {"p.doc": "a cat"}),
    Row("no TOML", "--sample_prompts p.toml is not valid TOML: …; texts must stand in quotes", prompts("p.toml"), {"p.toml": "[prompt\n"}),
    Row("no JSON", "--sample_prompts p.json, line 1: not valid JSON: …", prompts("p.json"), {"p.json": "{"}),
    Row(
        "text where a number belongs",
        "--sample_prompts p.json, entry 1: width must be a whole number, got 'wide'",
        prompts("p.json"),
        {"p.json": '[{"prompt": "a cat", "width": "wide"}]'},
    ),
    Row(
        "a weight that is no number",
        (
            "--sample_prompts p.txt, line 1: the weight '1..2' is not a number, in the caption or prompt '(cat:1..2)'; write a "
            "weight like (text:1.3)"
        ),
        prompts("p.txt"),
        {"p.txt": "(cat:1..2)\n"},
    ),
    Row(
        "a picture of 99,999 pixels",
        "--sample_prompts p.txt, line 1: width and height must be at most 16384 pixels, got 99999",
        prompts("p.txt"),
        {"p.txt": "cat --w 99999\n"},
    ),
    Row("no UTF-8", "--sample_prompts p.txt, line 1: this is not UTF-8; save the file as UTF-8", prompts("p.txt"), {"p.txt": b"caf\xe9\n"}),
    Row(
        "an option that prompts do not have",
        "--sample_prompts p.txt, line 1: --x is none of w, h, d, s, l, n, ss, left out",
        prompts("p.txt"),
        {"p.txt": "cat --x 3\n"},
        when=LATER,
        goes_on=True,
    ),
]

TRACKERS = [
    Row(
        "wandb is not installed",
        "--log_with wandb needs the package 'wandb': pip install wandb, or use --log_with tensorboard",
        {"log_with": "wandb"},
        patch=without("wandb"),
    ),
    Row(
        "`--log_with tensorboard` without a folder",
        "--log_with tensorboard needs a folder for its records: add --logging_dir logs",
        {"log_with": "tensorboard"},
    ),
    Row(
        "`--log_tracker_config` that is no TOML",
        "--log_tracker_config t.toml is not valid TOML in UTF-8: …",
        {"logging_dir": "logs", "log_tracker_config": "t.toml"},
        {"t.toml": "wandb = ="},
    ),
    Row(
        "`--log_tracker_config` without tables",
        "--log_tracker_config t.toml: wandb must be a table, such as [wandb] or [tensorboard]",
        {"logging_dir": "logs", "log_tracker_config": "t.toml"},
        {"t.toml": "wandb = 3"},
    ),
]

SECTIONS = {
    "Images and captions": IMAGES,
    "Metadata files (`--in_json`)": METADATA_FILES,
    "Dataset configs": DATASET_CONFIGS,
    "Prompts of previews": PROMPTS,
    "Records": TRACKERS,
}
