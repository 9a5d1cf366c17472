"""The names --optimizer_type and --lr_scheduler take, and what a choice of optimizer means for other options."""

from argparse import Namespace

OPTIMIZERS = (
    "AdamW",
    "AdamW8bit",
    "PagedAdamW",
    "PagedAdamW8bit",
    "PagedAdamW32bit",
    "Lion",
    "Lion8bit",
    "PagedLion8bit",
    "SGDNesterov",
    "SGDNesterov8bit",
    "DAdaptation",
    "DAdaptAdamPreprint",
    "DAdaptAdaGrad",
    "DAdaptAdam",
    "DAdaptAdan",
    "DAdaptAdanIP",
    "DAdaptLion",
    "DAdaptSGD",
    "Prodigy",
    "AdaFactor",
    "AdamWScheduleFree",
    "RAdamScheduleFree",
    "SGDScheduleFree",
)
TORCH_OPTIMIZERS = (
    "Adadelta",
    "Adagrad",
    "Adam",
    "Adamax",
    "AdamW",
    "ASGD",
    "LBFGS",
    "Muon",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SGD",
    "SparseAdam",
)
LR_SCHEDULERS = (
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "inverse_sqrt",
    "cosine_with_min_lr",
    "warmup_stable_decay",
    "piecewise_constant",
    "adafactor",
)


KEY_VALUE_LISTS = ("network_args", "optimizer_args", "lr_scheduler_args")


def optimizer_kind(args: Namespace) -> str:
    """The chosen optimizer in lower case, old switches included."""
    if args.use_8bit_adam:
        return "adamw8bit"
    return "lion" if args.use_lion_optimizer else args.optimizer_type.lower() or "adamw"


def sets_its_own_rate(args: Namespace) -> bool:
    """Whether it is Adafactor in relative_step mode, its default, which brings its own learning rate and schedule."""
    settings = dict(item.partition("=")[::2] for item in args.optimizer_args or [])
    settings = {key.strip(): value.strip() for key, value in settings.items()}
    return optimizer_kind(args) == "adafactor" and (settings.get("relative_step") != "False" or settings.get("warmup_init") == "True")


def needs_no_schedule(args: Namespace) -> bool:
    """Whether it is a schedule-free optimizer, for which every learning-rate schedule is left out."""
    return optimizer_kind(args).endswith("schedulefree")
