"""Names of SDXL's tensors and adapter modules in the original (sgm) layout and in diffusers'. Pure text, no torch.

Checkpoints write names with dots, adapter files with underscores; one table serves both.
"""

from library.models.ldm_keys import Table, inverse, renamed, unet_table

UNET_TO_ORIGINAL = unet_table(attention_levels=(False, True, True))
UNET_TO_DIFFUSERS = inverse(UNET_TO_ORIGINAL)

TEXT_ENCODER_1_PREFIX = "conditioner.embedders.0.transformer."
TEXT_ENCODER_2_PREFIX = "conditioner.embedders.1.model."


def _underscored(table: Table) -> Table:
    return {key.replace(".", "_"): value.replace(".", "_") for key, value in table.items()}


ADAPTER_TO_ORIGINAL = _underscored(UNET_TO_ORIGINAL)
ADAPTER_TO_DIFFUSERS = _underscored(UNET_TO_DIFFUSERS)


def adapter_name_to_original(name: str) -> str:
    """A U-Net adapter's module name or tensor key, without its `lora_unet_`, in original names; unknown names unchanged.

    `down_blocks_1_attentions_0_proj_in` -> `input_blocks_4_1_proj_in`
    """
    module, dot, tensor = name.partition(".")
    return (renamed(module, ADAPTER_TO_ORIGINAL, "_") or module) + dot + tensor


def adapter_name_to_diffusers(name: str) -> str:
    """The other direction: `input_blocks_4_1_proj_in` -> `down_blocks_1_attentions_0_proj_in`; unknown names unchanged."""
    module, dot, tensor = name.partition(".")
    return (renamed(module, ADAPTER_TO_DIFFUSERS, "_") or module) + dot + tensor
