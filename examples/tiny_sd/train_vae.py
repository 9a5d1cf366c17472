"""Trains the autoencoder alone, then folds the latent scale into it.

    python -m examples.tiny_sd.train_vae vae.npz FIRST --minutes 9
    python -m examples.tiny_sd.train_vae vae.npz SECOND --minutes 20 --decoder_of FIRST     # the encoder stays as it is

Latents begin as mean colours (vae_start.py) with variance 1 per channel, are held near it by a small term of the loss, and get a
little noise, so none can become constant. At the end Stable Diffusion's latent scale goes into quant_conv and post_quant_conv.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from examples.tiny_sd.models import SCALE, make_vae
from examples.tiny_sd.vae_start import start_as_average

NOISE = 0.06
"""Standard deviation of the noise on latents of variance 1."""
OUTER_SHARE = 0.03


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """uint8 (n, h, w, 3) -> float (n, 3, h, w) in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def encode_means(vae, pictures: torch.Tensor) -> torch.Tensor:
    return vae.encode(pictures).latent_dist.mean


def loss_of(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1, squares, and L1 of the differences between neighbouring pixels, for edges."""
    error = output - target
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean() + 0.5 * error.square().mean() + 0.5 * edges


def rate_groups(vae) -> list[dict]:
    """The residual branches learn fast, the paths around them, which carry the colours, slowly."""
    trained = [(name, p) for name, p in vae.named_parameters() if p.requires_grad]
    inner = [p for name, p in trained if _is_inner(name)]
    outer = [p for name, p in trained if not _is_inner(name)]
    return [{"params": inner, "share": 1.0}, {"params": outer, "share": OUTER_SHARE}]


def _is_inner(name: str) -> bool:
    return any(part in name for part in ("norm1", "conv1", "norm2", "conv2", "attentions"))


def train(vae, square, clutter, options, scale: float = 1.0) -> list[dict]:
    """Each batch is half domain, half clutter. The rate follows the clock: warm-up, then a cosine to zero. scale: latents' deviation."""
    minutes, batch, peak = options.minutes, options.batch, options.lr
    if options.decoder_of:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    optimizer = torch.optim.AdamW(rate_groups(vae), lr=peak, betas=(0.9, 0.99), weight_decay=0)
    start, log, step, sums = time.perf_counter(), [], 0, 0.0
    while (done := (time.perf_counter() - start) / (60 * minutes)) < 1:
        rate = peak * min(1, (step + 1) / 100) * 0.5 * (1 + np.cos(np.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"]
        pick = [pool[np.random.randint(0, len(pool), batch // 2)] for pool in (square, clutter)]
        pictures = to_tensor(np.concatenate(pick))
        with torch.set_grad_enabled(not options.decoder_of):
            latents = encode_means(vae, pictures)
        output = vae.decode(latents + NOISE * scale * torch.randn_like(latents)).sample
        loss = loss_of(output, pictures) + 0.02 * (latents.std((0, 2, 3)) / scale - 1).square().sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        step += 1
        sums += (output - pictures).abs().mean().item()
        if step % 50 == 0:
            log.append({"step": step, "seconds": round(time.perf_counter() - start), "l1": round(sums / 50, 4), "lr": round(rate, 6)})
            print(json.dumps(log[-1]), flush=True)
            sums = 0.0
    return log


@torch.no_grad()
def fold_scale(vae, square: np.ndarray) -> dict[str, list[float]]:
    """Makes the encoder's means have mean 0 and deviation 1 / SCALE per channel on the domain, and the decoder expect that."""
    latents = torch.cat([encode_means(vae, to_tensor(square[i : i + 50])) for i in range(0, 1000, 50)])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    quant, post = vae.quant_conv, vae.post_quant_conv
    factor = 1 / (std * SCALE)
    quant.weight[:4] *= factor[:, None, None, None]
    quant.bias[:4] = (quant.bias[:4] - mean) * factor
    quant.weight[4:] = 0
    quant.bias[4:] = 2 * float(np.log(NOISE / SCALE))  # the log-variance: the same little noise everywhere
    weight = post.weight.clone()
    post.bias += (weight * mean[None, :, None, None]).sum((1, 2, 3))
    post.weight.copy_(weight * (std * SCALE)[None, :, None, None])
    return {"mean": mean.tolist(), "std": std.tolist()}


@torch.no_grad()
def judge(vae, square: np.ndarray) -> dict[str, float]:
    """L1 in [-1, 1] of reconstructions, and of an 8x8 colour average, on held-out pictures."""
    pictures = to_tensor(square)
    output = torch.cat([vae.decode(encode_means(vae, p)).sample for p in pictures.split(50)])
    average = F.interpolate(F.avg_pool2d(pictures, 8), scale_factor=8)
    return {"l1": (output - pictures).abs().mean().item(), "average_l1": (average - pictures).abs().mean().item()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--decoder_of", type=Path, help="train the decoder of this folder alone")
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--lr", type=float, default=2.5e-4)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    np.random.seed(options.seed)
    data = np.load(options.pictures)
    square, clutter = data["square"], data["clutter"]
    held = {"domain": square[-200:], "clutter": clutter[-200:]}
    result = {"torch": torch.__version__, "options": {name: str(value) for name, value in vars(options).items()}}
    if options.decoder_of:
        vae = AutoencoderKL.from_pretrained(options.decoder_of)
        result["log"] = train(vae, square[:-200], clutter[:-200], options, scale=1 / SCALE)
    else:
        vae = make_vae()
        start_as_average(vae, to_tensor(square[:200]))
        result["log"] = train(vae, square[:-200], clutter[:-200], options)
        result["latents"] = fold_scale(vae, square)
    vae.eval()
    result |= {name: judge(vae, pictures) for name, pictures in held.items()}
    vae.save_pretrained(options.out)
    (options.out / "training.json").write_text(json.dumps(result, indent=1))
    print({key: value for key, value in result.items() if key != "log"})


if __name__ == "__main__":
    main()
