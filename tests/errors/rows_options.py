"""Rows of docs/errors.md: options, and the files that hold options."""

from tests.errors.faults import without
from tests.errors.world import LATER
from tests.errors.world import WrongInput as Row

PICTURE = "images/4_thing/p0.png"

COMMAND_LINE = [
    Row(
        "an option that does not exist, `--network_dimm 4`",
        "unrecognized arguments: --network_dimm; did you mean --network_dim?",
        {"network_dimm": 4},
        status=2,
    ),
    Row(
        "a value that is no number, `--train_batch_size two`",
        "argument --train_batch_size: invalid int value: 'two'",
        {"train_batch_size": "two"},
        status=2,
    ),
    Row(
        "a value that is not offered, `--mixed_precision fp32`",
        "argument --mixed_precision: invalid choice: 'fp32' (choose from …)",
        {"mixed_precision": "fp32"},
        status=2,
    ),
    Row("an option without its value", "argument --seed: expected one argument", {"seed": []}, status=2),
    Row(
        "a switch with a value, `--cache_latents=yes`",
        (
            "--cache_latents is a switch and takes no value, but was given 'yes': write --cache_latents alone to switch it on, "
            "leave it out to keep it off"
        ),
        {"cache_latents=yes": True},
        status=2,
    ),
    Row(
        "`--pretrained_model_name_or_path` left out",
        (
            "--pretrained_model_name_or_path is missing: name the model to train on, such as --pretrained_model_name_or_path "
            "model.safetensors"
        ),
        {"pretrained_model_name_or_path": None},
    ),
    Row(
        "no images named",
        (
            "no images are named: give --train_data_dir, a folder that holds folders such as 10_name, or --dataset_config, a file "
            "that describes the data"
        ),
        {"train_data_dir": None},
    ),
    Row(
        "`--network_module` left out",
        "--network_module is missing: name the kind of network to train, such as --network_module networks.lora",
        {"network_module": None},
    ),
    Row(
        "`--resolution 512x512`",
        "--resolution 512x512: give one number of pixels, such as 512, or width,height, such as 768,512",
        {"resolution": "512x512"},
    ),
    Row("a learning rate that is no number, `nan`", "--learning_rate nan: give a value from 0 to 10000", {"learning_rate": "nan"}),
    Row("an infinite number", "--network_alpha inf: give a number that is finite", {"network_alpha": "inf"}),
    Row("a batch of no images", "--train_batch_size 0: give 1 or more", {"train_batch_size": 0}),
    Row("a negative number of workers", "--max_data_loader_n_workers -1: give 0 or more", {"max_data_loader_n_workers": -1}),
    Row("`--loss_type huber` without a width", "--huber_c 0.0: give a number above 0, such as 0.1", {"loss_type": "huber", "huber_c": 0}),
    Row(
        "`--cache_latents` beside `--random_crop`",
        "--cache_latents fixes each image once, --random_crop changes it at every step: leave one of them out",
        {"cache_latents": True, "random_crop": True},
    ),
    Row(
        "`--full_bf16` without `--mixed_precision bf16`",
        "--full_bf16 needs --mixed_precision bf16, but that is no: change it, or leave --full_bf16 out",
        {"full_bf16": True},
    ),
    Row(
        "`--noise_offset` forgotten",
        "--adaptive_noise_scale 0.01 adds to --noise_offset, which is missing: give both or neither",
        {"adaptive_noise_scale": 0.01},
    ),
    Row(
        "timesteps the wrong way round",
        "--min_timestep 500 is above --max_timestep 400: give the lower one first",
        {"min_timestep": 500, "max_timestep": 400},
    ),
    Row(
        "nothing left to train",
        "--network_train_unet_only and --network_train_text_encoder_only together leave nothing to train: leave one or both out",
        {"network_train_unet_only": True, "network_train_text_encoder_only": True},
    ),
    Row(
        "`--v2` with sdxl_train_network.py",
        "--v2 is for Stable Diffusion 2.x and sdxl_train_network.py for SDXL: leave --v2 out, or use train_network.py",
        {"v2": True},
        script="sdxl",
    ),
    Row(
        "caching the text encoders' outputs while they are trained",
        "--cache_text_encoder_outputs cannot train the text encoders: add --network_train_unet_only, or leave it out",
        {"cache_text_encoder_outputs": True},
        script="sdxl",
    ),
    Row(
        "half precision without a GPU",
        "--mixed_precision fp16 needs a GPU, and torch sees none: use bf16 or no here, or install torch with CUDA",
        {"mixed_precision": "fp16"},
        patch=without("cuda"),
    ),
]

PLACES = [
    Row("`--output_dir` is a file", "--output_dir images/4_thing/p0.png is a file: give a folder", {"output_dir": PICTURE}),
    Row(
        "`--output_dir` inside a file",
        "--output_dir images/4_thing/p0.png/out lies in images/4_thing/p0.png, which is a file: give a folder",
        {"output_dir": f"{PICTURE}/out"},
    ),
    Row("`--output_name ../lora`", "--output_name '../lora' holds a folder: put folders into --output_dir", {"output_name": "../lora"}),
    Row("`--output_name ..`", "--output_name '..' holds a folder: put folders into --output_dir", {"output_name": ".."}),
    Row(
        "an `--output_name` that is too long",
        "--output_name 'aaaaaaaaaaaaaaaaaaaa'... cannot be a file name: give up to 200 plain characters",
        {"output_name": "a" * 300},
    ),
    Row(
        "`--console_log_file` in a folder that is not there",
        "--console_log_file nowhere/log.txt cannot be written: No such file or directory; give another place",
        {"console_log_file": "nowhere/log.txt"},
    ),
    Row(
        "`--lr_scheduler_preview` with another ending",
        "--lr_scheduler_preview curve.docx: the name must end in .png, .jpg, .svg or .pdf",
        {"lr_scheduler_preview": "curve.docx"},
    ),
    Row(
        "`--huggingface_repo_id` with three parts",
        "--huggingface_repo_id me/loras/new: give OWNER/NAME, as the address of the repository ends",
        {"huggingface_repo_id": "me/loras/new"},
    ),
    Row(
        "`--huggingface_path_in_repo` that leads out",
        "--huggingface_path_in_repo ../other leads out of the repository: give a folder inside it",
        {"huggingface_repo_id": "me/x", "huggingface_path_in_repo": "../other"},
    ),
    Row(
        "`--async_upload` without a repository",
        "--async_upload needs the repository to upload to: add --huggingface_repo_id OWNER/NAME, or leave it out",
        {"async_upload": True},
    ),
]

CONFIG_FILES = [
    Row(
        "`--config_file` that is not there",
        (
            "--config_file none.toml cannot be read (No such file or directory): give the path of a TOML file, relative to FOLDER "
            "or absolute"
        ),
        {"config_file": "none.toml"},
    ),
    Row("a config file that is no TOML", "--config_file c.toml is not valid TOML: …", {"config_file": "c.toml"}, {"c.toml": "a = = 3"}),
    Row(
        "a Windows path in quotes",
        "--config_file c.toml is not valid TOML: …; write Windows paths with / or in 'single quotes'",
        {"config_file": "c.toml"},
        {"c.toml": 'vae = "C:\\models\\new"'},
    ),
    Row(
        "a config file that is not UTF-8",
        "--config_file c.toml is not UTF-8 text (…): save it again as UTF-8",
        {"config_file": "c.toml"},
        {"c.toml": 'vae = "é"'.encode("latin1")},
    ),
    Row(
        "text where a number belongs",
        'c.toml: network_dim = "four": this takes a whole number',
        {"config_file": "c.toml"},
        {"c.toml": 'network_dim = "four"'},
    ),
    Row(
        "a switch as text",
        'c.toml: cache_latents = "yes": this is a switch, write true or false without quotes',
        {"config_file": "c.toml"},
        {"c.toml": 'cache_latents = "yes"'},
    ),
    Row(
        "a value that is not offered",
        'c.toml: mixed_precision = "fp32": use one of "no", "fp16", "bf16", or leave the line out',
        {"config_file": "c.toml"},
        {"c.toml": 'mixed_precision = "fp32"'},
    ),
    Row(
        "`network_args` as one text",
        'c.toml: network_args = "conv_dim=4": this takes a list of texts, such as network_args = ["key=value", "other=1"]',
        {"config_file": "c.toml"},
        {"c.toml": 'network_args = "conv_dim=4"'},
    ),
    Row(
        "lists nested a thousand deep",
        "--config_file c.toml: its tables or lists are nested too deeply",
        {"config_file": "c.toml"},
        {"c.toml": "a = " + "[" * 3000 + "]" * 3000},
    ),
    Row(
        "`--output_config` onto a file that exists",
        "--output_config: c.toml exists already: delete it, or give --config_file another name",
        {"config_file": "c.toml", "output_config": True},
        {"c.toml": ""},
    ),
]

OPTIMIZERS = [
    Row(
        "a misspelt optimizer",
        (
            "--optimizer_type adamw8bits: there is no such optimizer (did you mean AdamW8bit?); use one of AdamW, AdamW8bit, "
            "PagedAdamW, PagedAdamW8bit, PagedAdamW32bit, Lion, Lion8bit, PagedLion8bit, SGDNesterov, SGDNesterov8bit, "
            "DAdaptation, DAdaptAdamPreprint, DAdaptAdaGrad, DAdaptAdam, DAdaptAdan, DAdaptAdanIP, DAdaptLion, DAdaptSGD, Prodigy, "
            "AdaFactor, AdamWScheduleFree, RAdamScheduleFree, SGDScheduleFree, the exact name of a torch.optim class such as "
            "RAdam, or a dotted path"
        ),
        {"optimizer_type": "adamw8bits"},
    ),
    Row(
        "an optimizer's package that is not there",
        "--optimizer_type nopackage.Optimizer needs the package 'nopackage': pip install nopackage, or use AdamW",
        {"optimizer_type": "nopackage.Optimizer"},
    ),
    Row(
        "a class that its package does not have",
        (
            "--optimizer_type torch.optim.NoSuch: torch.optim has no class NoSuch; check the spelling (upper and lower case "
            "count), or update the package: pip install -U torch"
        ),
        {"optimizer_type": "torch.optim.NoSuch"},
    ),
    Row(
        "an optimizer that cannot work here",
        "--optimizer_type LBFGS computes the loss several times in a step, which training here does not: use AdamW",
        {"optimizer_type": "LBFGS"},
    ),
    Row(
        "bitsandbytes is not installed",
        "--optimizer_type AdamW8bit needs the package 'bitsandbytes': pip install bitsandbytes, or use AdamW",
        {"optimizer_type": "AdamW8bit"},
        patch=without("bitsandbytes"),
    ),
    Row(
        "prodigyopt is not installed",
        "--optimizer_type Prodigy needs the package 'prodigyopt': pip install prodigyopt, or use AdamW",
        {"optimizer_type": "Prodigy"},
        patch=without("prodigyopt"),
    ),
    Row(
        "dadaptation is not installed",
        "--optimizer_type DAdaptAdam needs the package 'dadaptation': pip install dadaptation, or use AdamW",
        {"optimizer_type": "DAdaptAdam"},
        patch=without("dadaptation"),
    ),
    Row(
        "lion_pytorch is not installed",
        "--optimizer_type Lion needs the package 'lion_pytorch': pip install lion-pytorch, or use AdamW",
        {"optimizer_type": "Lion"},
        patch=without("lion_pytorch"),
    ),
    Row(
        "schedulefree is not installed",
        "--optimizer_type AdamWScheduleFree needs the package 'schedulefree': pip install schedulefree, or use AdamW",
        {"optimizer_type": "AdamWScheduleFree"},
        patch=without("schedulefree"),
    ),
    Row(
        "an argument the optimizer does not have",
        "--optimizer_args bettas=(0.9, 0.99): AdamW has no argument 'bettas' (did you mean 'betas'?); it takes betas, eps, …",
        {"optimizer_args": ["bettas=0.9,0.99"]},
    ),
    Row(
        "an argument that cannot be read",
        (
            "--optimizer_args: the value in 'betas=a,b' is not a Python literal; write numbers as 0.1 or 1e-6, lists as 0.9,0.99, "
            "switches as True or False, and put quotes around text, as in key='text'"
        ),
        {"optimizer_args": ["betas=a,b"]},
    ),
    Row(
        "an argument of the wrong kind",
        (
            "--optimizer_type AdamW with --optimizer_args betas=0.9 failed with TypeError (…) in torch.optim.…. Check "
            "--optimizer_args, or take --optimizer_type AdamW"
        ),
        {"optimizer_args": ["betas=0.9"]},
    ),
    Row(
        "an argument out of its range",
        (
            "--optimizer_type AdamW with --optimizer_args betas=2,0.9 failed with ValueError (Invalid beta parameter at index 0: "
            "2) in torch.optim.…. Check --optimizer_args, or take --optimizer_type AdamW"
        ),
        {"optimizer_args": ["betas=2,0.9"]},
    ),
    Row(
        "a misspelt schedule",
        (
            "--lr_scheduler cosin: there is no such schedule (did you mean cosine?); use one of constant, constant_with_warmup, "
            "linear, cosine, cosine_with_restarts, polynomial, inverse_sqrt, cosine_with_min_lr, warmup_stable_decay, "
            "piecewise_constant, adafactor, or a class with --lr_scheduler_type"
        ),
        {"lr_scheduler": "cosin"},
    ),
    Row(
        "a schedule class that is not there",
        (
            "--lr_scheduler_type NoSuchLR: torch.optim.lr_scheduler has no class NoSuchLR; check the spelling (upper and lower "
            "case count), or update the package: pip install -U torch"
        ),
        {"lr_scheduler_type": "NoSuchLR"},
    ),
    Row(
        "a schedule class without what it needs",
        "--lr_scheduler_args: StepLR needs step_size, as in --lr_scheduler_args step_size=...",
        {"lr_scheduler_type": "StepLR"},
    ),
    Row(
        "a schedule class with text for a number",
        "--lr_scheduler_type StepLR failed with TypeError (…) in torch.optim.lr_scheduler. Check --lr_scheduler_args",
        {"lr_scheduler_type": "StepLR", "lr_scheduler_args": ["step_size='x'"]},
    ),
    Row(
        "a learning rate of 0",
        (
            "nothing is left to train: --text_encoder_lr None, --unet_lr None, --learning_rate 0.0 for 24 text encoder and 192 "
            "U-Net modules; give a rate above 0"
        ),
        {"learning_rate": 0},
        when=LATER,
    ),
    Row(
        "Prodigy with two learning rates",
        (
            "--optimizer_type Prodigy allows one learning rate only (or 0), got 0.5, 1.0: give --learning_rate, --unet_lr and "
            "--text_encoder_lr the same value and leave out loraplus_* and *_lr_weight in --network_args, or use --optimizer_type "
            "prodigyplus.ProdigyPlusScheduleFree, which finds a rate for each group"
        ),
        {"optimizer_type": "Prodigy", "unet_lr": 1, "text_encoder_lr": 0.5},
        when=LATER,
    ),
]

SECTIONS = {
    "Options": COMMAND_LINE,
    "Places to write to": PLACES,
    "Config files": CONFIG_FILES,
    "Optimizers and schedules": OPTIMIZERS,
}
