"""What a run writes into its files: who it is, what it trained on and with, and the hashes of its base model."""

import random
import time
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed

from library.models.family import Family
from library.optim.optimizers import BuiltOptimizer
from library.saving import metadata
from library.saving.commit import program_commit
from library.saving.hashes import FileHashes
from library.saving.modelspec import ModelFacts, modelspec_metadata
from library.training.adapter import NetworkSettings
from library.training.datasets import RunData
from library.training.plan import Plan


@dataclass(frozen=True)
class Session:
    """The run's own number, when it began (seconds since 1970), and its seed."""

    number: int
    started_at: float
    seed: int

    @classmethod
    def begin(cls, seed: int | None) -> "Session":
        """Seeds python, numpy and torch with `seed`, or with a random one if None."""
        number, started_at = random.randint(0, 2**32), time.time()
        seed = random.randint(0, 2**32) if seed is None else seed
        set_seed(seed)
        return cls(number, started_at, seed)

    def shared(self, accelerator: Accelerator, given: int | None) -> "Session":
        """The same session in all processes: a seed that was not `given` on the command line becomes that of the first one."""
        if accelerator.num_processes == 1 or given is not None:
            return self
        told = broadcast_object_list([self.seed])
        set_seed(told[0])
        return replace(self, seed=told[0])

    def separate(self, accelerator: Accelerator, strict_compat: bool) -> None:
        """From here on each process draws its own noise and timesteps; with strict_compat all draw the same, as the reference does."""
        if accelerator.process_index > 0 and not strict_compat:
            set_seed(random.Random(f"process {accelerator.process_index} of {self.seed}").getrandbits(32))


class ModelHashes:
    """Hashes the base model and the external VAE in the background; names that are no path here have none."""

    def __init__(self, base_model: str, vae: str | None):
        self._files = {"sd_model": base_model, "vae": vae}
        self._hashes = {kind: FileHashes(path) for kind, path in self._files.items() if path and Path(path).exists()}

    def metadata(self) -> dict[str, str]:
        """The keys of both, waiting for the hashes if need be."""
        found: dict[str, str] = {}
        for kind, path in self._files.items():
            if path:
                hashes = self._hashes[kind].result() if kind in self._hashes else None
                found |= metadata.model_metadata(kind, path, hashes)
        return found


class RunMetadata:
    """`training` is what stays the same over the run; `at_save` gives all keys of one file."""

    def __init__(self, training: dict[str, str], hashes: ModelHashes, options: Mapping[str, Any], facts: ModelFacts):
        self.training = training
        self._hashes = hashes
        self._options = options
        self._facts = facts

    def at_save(self, *, epoch: int, global_step: int) -> dict[str, str]:
        """Everything but the sshs_* hashes, which the network adds when it writes its tensors."""
        now = time.time()
        spec = modelspec_metadata(self._options, self._facts, saved_at=now, commit=program_commit())
        whole = self.training | self._hashes.metadata()
        return metadata.save_metadata(
            whole, spec, global_step=global_step, epoch=epoch, finished_at=now, minimal=self._options["no_metadata"]
        )


def run_metadata(
    args: Namespace,
    session: Session,
    hashes: ModelHashes,
    family: Family,
    data: RunData,
    plan: Plan,
    built: BuiltOptimizer,
    network: NetworkSettings,
    scale_weight_norms: float | None,
    accelerator: Accelerator,
) -> RunMetadata:
    """Gathers the metadata of a prepared run. scale_weight_norms: the limit in force, which a module may not support."""
    options = vars(args) | {"scale_weight_norms": scale_weight_norms}
    if args.scale_weight_norms is not None and scale_weight_norms is None:
        options["scale_weight_norms"] = False
    facts = metadata.RunFacts(
        session_id=session.number,
        started_at=session.started_at,
        seed=session.seed,
        base_model_version=family.base_model_version,
        num_train_images=data.train.num_train_images,
        num_reg_images=data.train.num_reg_images,
        num_validation_images=data.validation.num_train_images if data.validation else 0,
        num_batches_per_epoch=plan.batches_per_epoch,
        num_epochs=plan.num_epochs,
        max_train_steps=plan.total_steps,
        optimizer=built.name,
        learning_rate=built.learning_rate,
        lr_scheduler=built.lr_scheduler,
        network_args=network.arguments if args.network_args else None,
    )
    training = metadata.option_metadata(options) | metadata.run_metadata(facts)
    training |= metadata.dataset_metadata(
        data.train.datasets, from_config=data.from_config, options=options, processes=accelerator.num_processes
    )
    return RunMetadata(training, hashes, options, family.modelspec_facts())
