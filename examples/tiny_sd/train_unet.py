"""Trains UNet and text encoder together on the autoencoder's latents.

    python -m examples.tiny_sd.train_unet unet.npz VAE_FOLDER OUT_FOLDER --minutes 55

    python -m examples.tiny_sd.train_unet unet.npz VAE_FOLDER OUT_FOLDER --minutes 52 --clutter vae.npz

OUT_FOLDER/state.pt is written every few minutes; a new start goes on from it, with the time that is left. --clutter adds pictures of
many things in any colour to the square ones, all with the same caption, so that the network knows more than flat single shapes.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import nn

from examples.tiny_sd.models import SCALE, make_text_encoder, make_unet, signal_share
from examples.tiny_sd.train_vae import NOISE, encode_means, to_tensor
from library.models.tokenizer import CLIP_L, load_tokenizer

LENGTH = 77
EMPTY, JUNK = 0.1, 0.1
"""Shares of the captions that are emptied, for guidance, and that get a random unknown word, which is to mean nothing."""
CLUTTER = "many shapes"
JUNK_WORDS = 64


class Captions:
    """Captions to rows of ids in a small vocabulary: only words that occur are trained, the others stay as they are drawn.

    kept: the vocabulary of an earlier start; new words come after it.
    """

    def __init__(self, captions: list[str], seed: int, kept: list[int] | None = None):
        self.tokenizer = load_tokenizer(CLIP_L)
        used = sorted({i for text in set(captions) for i in self.tokenizer.ids(text)})
        junk = np.random.default_rng(seed).choice(np.setdiff1d(np.arange(1000, 40000), used), JUNK_WORDS, replace=False)
        self.ids = [*used, *(int(i) for i in junk), self.tokenizer.start_id, self.tokenizer.end_id]
        if kept:
            self.ids = [*kept, *(i for i in used if i not in kept)]
            junk = np.setdiff1d(kept, [*used, self.tokenizer.start_id, self.tokenizer.end_id])
        self.row = {number: row for row, number in enumerate(self.ids)}
        self.junk = [int(i) for i in junk]

    def rows(self, caption: str) -> np.ndarray:
        """(77,) with the markers; padded with the end marker."""
        body = list(self.tokenizer.ids(caption))
        if np.random.random() < JUNK:
            body = [int(np.random.choice(self.junk)), *self.tokenizer.ids(","), *body]
        if np.random.random() < EMPTY:
            body = []
        ids = [self.tokenizer.start_id, *body, self.tokenizer.end_id]
        ids += [self.tokenizer.end_id] * (LENGTH - len(ids))
        return np.array([self.row[i] for i in ids])


@dataclass
class Networks:
    """What is trained, and its moving average."""

    unet: nn.Module
    text: nn.Module
    average: dict[str, torch.Tensor] = field(default_factory=dict)

    def parameters(self) -> dict[str, nn.Parameter]:
        parts = {"unet": self.unet, "text": self.text}
        return {f"{part}.{name}": p for part, module in parts.items() for name, p in module.named_parameters()}

    def update_average(self, step: int, decay: float = 0.998) -> None:
        decay = min(decay, (1 + step) / (10 + step))
        now = {name: parameter.detach() for name, parameter in self.parameters().items()}
        if not self.average:
            self.average.update({name: tensor.clone() for name, tensor in now.items()})
        torch._foreach_lerp_(list(self.average.values()), list(now.values()), 1 - decay)


@torch.no_grad()
def encode_all(vae, pictures: np.ndarray) -> torch.Tensor:
    """Means times SCALE: (n, 4, h/8, w/8), variance about 1."""
    batches = [pictures[i : i + 100] for i in range(0, len(pictures), 100)]
    return torch.cat([encode_means(vae, to_tensor(batch)) for batch in batches]) * SCALE


def load_data(options) -> dict[str, tuple[torch.Tensor, list[str]]]:
    """Shape of picture -> latents and captions. Latents are kept in the folder for the next start."""
    data, cache = dict(np.load(options.pictures)), options.out / "latents.pt"
    if options.clutter:
        data["clutter"] = np.load(options.clutter)["clutter"]
    names = [name for name in ("square", "wide", "tall", "clutter") if name in data]
    latents = torch.load(cache) if cache.exists() else {}
    if any(name not in latents for name in names):
        vae = AutoencoderKL.from_pretrained(options.vae).eval()
        latents |= {name: encode_all(vae, data[name]) for name in names if name not in latents}
        torch.save(latents, cache)
    texts = {name: [str(c) for c in data[f"{name}_captions"]] for name in names if name != "clutter"}
    if options.clutter:
        latents["square"] = torch.cat([latents["square"], latents["clutter"]])
        texts["square"] += [CLUTTER] * len(latents["clutter"])
    return {name: (latents[name], texts[name]) for name in texts}


def draw_batch(data, captions: Captions, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents with the autoencoder's own noise, and rows of ids. One batch in ten is wide or tall."""
    name = str(np.random.choice(["square", "wide", "tall"], p=(0.9, 0.05, 0.05)))
    latents, texts = data[name]
    size = batch if name == "square" else 2 * batch // 3
    pick = np.random.randint(0, len(latents), size)
    rows = np.stack([captions.rows(texts[i]) for i in pick])
    chosen = latents[torch.from_numpy(pick)]
    return chosen + NOISE * torch.randn_like(chosen), torch.from_numpy(rows)


def context_length(done: float) -> int:
    """How many of the 77 positions a batch uses: few at first, all at last. Exact for the encoder, whose attention is causal."""
    if done > 0.7:
        return LENGTH
    return int(np.random.randint(14, 32 if done < 0.4 else LENGTH + 1))


def step_loss(nets: Networks, latents, rows, shares: torch.Tensor) -> torch.Tensor:
    """Error of the predicted noise, weighted by min-SNR (arXiv:2303.09556) with gamma 5."""
    timesteps = torch.randint(0, len(shares), (len(latents),))
    share = shares[timesteps][:, None, None, None]
    noise = torch.randn_like(latents)
    context = nets.text(rows).last_hidden_state
    predicted = nets.unet(share.sqrt() * latents + (1 - share).sqrt() * noise, timesteps, context).sample
    snr = (share / (1 - share)).flatten()
    error = F.mse_loss(predicted, noise, reduction="none").mean((1, 2, 3))
    return (error * snr.clamp(max=5) / snr).mean()


def save_state(path: Path, nets: Networks, optimizer, captions: Captions, step: int, seconds: float) -> None:
    state = {"step": step, "seconds": seconds, "ids": captions.ids, "average": nets.average, "optimizer": optimizer.state_dict()}
    state |= {"unet": nets.unet.state_dict(), "text": nets.text.state_dict()}
    torch.save(state, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


def load_state(state: dict, nets: Networks, optimizer) -> tuple[int, float]:
    """The step and the seconds so far. Words that are new since then keep their initial vectors."""
    new = {name: tensor.detach() for name, tensor in nets.parameters().items()}
    nets.average = {name: _longer(tensor, new[name]) for name, tensor in state["average"].items()}
    text = nets.text.state_dict()
    nets.text.load_state_dict({name: _longer(tensor, text[name]) for name, tensor in state["text"].items()})
    nets.unet.load_state_dict(state["unet"])
    moments, parameters = state["optimizer"]["state"], list(nets.parameters().values())
    for number, moment in moments.items():
        zeros = torch.zeros_like(parameters[number])
        moments[number] = {key: _longer(value, zeros) if key != "step" else value for key, value in moment.items()}
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["seconds"]


def _longer(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`tensor`, with the rows of `like` that it lacks."""
    return torch.cat([tensor, like[len(tensor) :]]) if tensor.dim() and len(tensor) < len(like) else tensor


def rate_at(done: float, step: int, peak: float) -> float:
    """Warm-up over 100 steps, then a cosine to zero over the planned time."""
    return peak * min(1, (step + 1) / 100) * 0.5 * (1 + float(np.cos(np.pi * min(done, 1))))


def train(nets: Networks, data, captions: Captions, options) -> None:
    optimizer = torch.optim.AdamW(nets.parameters().values(), lr=options.lr, betas=(0.9, 0.99), weight_decay=0.01)
    state_file, shares = options.out / "state.pt", signal_share()
    step, before, sums = 0, 0.0, 0.0
    if state_file.exists():
        step, before = load_state(torch.load(state_file), nets, optimizer)
    start = saved = time.perf_counter()
    with open(options.out / "log.jsonl", "a") as log:
        while (done := (before + time.perf_counter() - start) / (60 * options.minutes)) < 1:
            rate = rate_at(done, step, options.lr)
            for group in optimizer.param_groups:
                group["lr"] = rate
            latents, rows = draw_batch(data, captions, options.batch)
            loss = step_loss(nets, latents, rows[:, : context_length(done)], shares)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(nets.parameters().values(), 1.0)
            optimizer.step()
            step += 1
            nets.update_average(step)
            sums += loss.item()
            now = time.perf_counter()
            if step % 50 == 0:
                line = {"step": step, "seconds": round(before + now - start), "loss": round(sums / 50, 5), "lr": round(rate, 7)}
                print(json.dumps(line), file=log, flush=True)
                sums = 0.0
            if now - saved > 150:
                save_state(state_file, nets, optimizer, captions, step, before + now - start)
                saved = now
    save_state(state_file, nets, optimizer, captions, step, before + time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("vae", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--clutter", type=Path, help="a file of pictures with clutter")
    parser.add_argument("--minutes", type=float, default=52, help="in all, earlier starts counted in")
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    np.random.seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    data = load_data(options)
    state_file = options.out / "state.pt"
    kept = torch.load(state_file)["ids"] if state_file.exists() else None
    captions = Captions([text for _, texts in data.values() for text in texts], options.seed, kept)
    nets = Networks(make_unet(), make_text_encoder(len(captions.ids)))
    train(nets, data, captions, options)


if __name__ == "__main__":
    main()
