"""Theft of a model that translates pictures from a running gateway: what is checked before, and told after."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mantlet import architectures, likeness
from mantlet.data import parse_rows
from mantlet.errors import ConfigError, MantletError
from mantlet.translation_training import translated
from redteam.attacks.attack import Progress
from redteam.attacks.translation import I2i, Learned, PictureMeans
from redteam.client.oracle import Cut, Refused
from redteam.client.tape import records_of
from redteam.theft.attacking import TAPE, Target, Thief, keep, stolen
from redteam.theft.order import Order, look, parsed, require_own, rows_of, validated

MEASURED = ("psnr_learned", "psnr_to_target", "psnr_unchanged")


def prepared(order: Order) -> tuple[Target, Thief, Tensor]:
    """Everything that a theft needs, read and checked, and the pictures that judge it; no row is sent."""
    if order.surrogate is None:
        raise ConfigError("attack 'i2i' asks about pictures of its own; give --surrogate")
    attack = validated(I2i, parsed(order.set))
    require_own(order.out)
    target = order.aim
    model = look(target, order.eval_key)
    if model is not None and (model.classes is not None or len(model.shape) != 3):
        raise ConfigError(
            f"model '{order.model}' makes no pictures of pictures; attack 'i2i' is for one that translates"
        )
    pool = rows_of(order.surrogate, "surrogate", model, **order.choice)
    judged = rows_of(order.judges, "eval", model, split="test", rows=parse_rows(order.eval_rows))
    cover = None if order.cover is None else rows_of(order.cover, "cover", model)
    for what, rows in (("eval", judged), ("cover", cover)):
        if rows is not None and rows.shape[1] != pool.shape[1]:
            raise ConfigError(
                f"{what} has pictures of {rows.shape[1]} channels, and the surrogate of {pool.shape[1]}"
            )
    if cover is not None and cover.shape[1:] != pool.shape[1:]:
        raise ConfigError(
            f"cover has pictures of {tuple(cover.shape[1:])}, and the surrogate of {tuple(pool.shape[1:])};"
            " they go out together, so give pictures of one size"
        )
    tricks = (order.average, order.jitter, cover, order.cover_share)
    thief = Thief(attack, _means(order, pool), order.budget, order.seed, *tricks)
    records_of(order.out / TAPE, thief.header(target))
    return target, thief, judged


def _means(order: Order, pool: Tensor) -> PictureMeans:
    """The thief's pictures and its network, which is tried on one of them."""
    architecture, settings = order.clone or "superres", parsed(order.clone_set)
    if architecture == "superres":
        settings = {"channels": pool.shape[1]} | settings
    network = architectures.build(architecture, settings).eval()
    try:
        with torch.inference_mode():
            made = network(pool[:1])
    except RuntimeError as error:
        raise ConfigError(
            f"the clone '{architecture}' does not take pictures of shape {tuple(pool.shape[1:])};"
            " choose its channels with --clone-set, or another with --clone"
        ) from error
    if made.ndim != 4:
        raise ConfigError(
            f"the clone '{architecture}' makes no pictures of pictures; take 'superres'"
        )
    return PictureMeans(pool, architecture, settings)


def run(
    target: Target,
    thief: Thief,
    judged: Tensor,
    out: Path,
    *,
    ask_with: str | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """Steal, judge the clone on (n, C, H, W) ``judged`` pictures, and write both into ``out``.

    Returns what was measured, in dB: ``psnr_learned`` on the pairs that it learned from, and where the target is
    asked, ``psnr_to_target`` on the judged ones and ``psnr_unchanged``, that of pictures which are only
    enlarged (bicubic). As `redteam.theft.attacking.run` it goes on from what ``out`` holds, and raises the same.
    """

    def judge(loot: Learned) -> dict[str, Any]:
        learned = _psnr(translated(loot.clone, loot.given), loot.answers)
        told = {"ended": loot.ended, "rows_learned": len(loot.given), "psnr_learned": learned}
        if ask_with is not None:
            told |= _beside_target(loot.clone, judged, target, ask_with)
        means = thief.means
        assert isinstance(means, PictureMeans)
        keep(loot.clone, target, thief, means.fitted(loot.given, loot.answers), out)
        return told

    return stolen(target, thief, out, judge, measured=MEASURED, progress=progress)


def _beside_target(clone: nn.Module, inputs: Tensor, target: Target, key: str) -> dict[str, Any]:
    """How near the clone comes to what the target makes of the same pictures; nothing where that refuses."""
    with target.account(key or None) as judge:
        try:
            wanted = judge.query(inputs)
        except (MantletError, Refused, Cut) as error:
            return {"rows_asked_to_judge": judge.rows, "psnr_missing": str(error)}
    made = translated(clone, inputs)
    if made.shape != wanted.shape:
        missing = f"the target makes {tuple(wanted.shape[1:])}, the clone {tuple(made.shape[1:])}"
        return {"rows_asked_to_judge": judge.rows, "psnr_missing": missing}
    told = {"psnr_to_target": _psnr(made, wanted), "rows_asked_to_judge": judge.rows}
    if wanted.shape[1] == inputs.shape[1]:
        size = tuple(wanted.shape[2:])
        plain = nn.functional.interpolate(inputs, size=size, mode="bicubic").clamp(0, 1)
        told["psnr_unchanged"] = _psnr(plain, wanted)
    return told


def _psnr(made: Tensor, wanted: Tensor) -> float:
    """The mean over pictures."""
    return round(float(likeness.psnr(made, wanted).mean()), 3)
