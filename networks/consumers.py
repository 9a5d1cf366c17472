"""Which programs apply a saved adapter other than it was trained, and what helps: one line at the first save.

Plain LoRA files work everywhere. The facts are tested with each program's own formula in tests/consumers.
"""

from collections.abc import Iterable

from networks.changes import INPUT, OUTPUT

IGNORES_MAGNITUDES = "diffusers leaves the magnitudes out"
REFUSES = "diffusers refuses the file"

# (kind of adapter, axis of its DoRA magnitude) -> what does not apply it as trained
NOT_AS_TRAINED = {
    ("LoRA", INPUT): (IGNORES_MAGNITUDES,),
    ("LoRA", OUTPUT): (
        "A1111 takes the magnitudes for those of input channels", "ComfyUI divides by the norm of the base weight", IGNORES_MAGNITUDES,
    ),
    ("LoHa", None): (REFUSES,),
    ("LoKr", None): (REFUSES,),
    ("OFT", None): ("ComfyUI does not know the names", REFUSES),
}  # fmt: skip
WAY_OUT = "for these, merge it into a checkpoint (networks/merge_lora.py) or make a plain LoRA of it (networks/svd_merge_lora.py)"


def advice(kinds: Iterable[tuple[str, str | None]]) -> str | None:
    """The line to print about a file with these (kind, axis) of modules; None if every program applies it as trained."""
    told: dict[str, list[str]] = {}
    for kind, axis in sorted(set(kinds), key=str):
        for limit in limits(kind, axis):
            name = kind if axis is None else f"{kind} with magnitudes by {axis} channel (DoRA)"
            told.setdefault(name, []).append(limit)
    if not told:
        return None
    return "; ".join(f"{name}: {', '.join(parts)}" for name, parts in told.items()) + f"; {WAY_OUT}"


def limits(kind: str, axis: str | None) -> tuple[str, ...]:
    """What does not apply one kind as trained. LoHa and LoKr with magnitudes are refused where they are refused without."""
    if axis is None or kind == "LoRA":
        return NOT_AS_TRAINED.get((kind, axis), ())
    others = [limit for limit in NOT_AS_TRAINED["LoRA", axis] if limit != IGNORES_MAGNITUDES]
    return (*others, *NOT_AS_TRAINED[kind, None])
