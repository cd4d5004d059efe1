"""Plan of a run on its GPUs: which folds at the same time, with how many images per pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.fold_memory import CONTEXT, FoldMemory
from pipeline.memory import Limits
from pipeline.training.gpu_cards import Card

__all__ = ["CardPlan", "in_turn", "largest_side", "plan_cards"]

# Share of a GPU's free memory that is planned with.
SHARE = 0.9
# Fewer images per pass make inference slower, so folds do not share a GPU at this price.
LEAST_CHUNK = 32


@dataclass(frozen=True, kw_only=True)
class CardPlan:
    """Plan of a GPU: the folds that it trains at the same time, and what they need."""

    card: Card
    at_once: int
    """Folds at the same time."""
    limits: Limits
    fold: int
    """Bytes that each fold needs."""
    images: int
    """Bytes of decoded images in its memory, which its folds share; 0: they stay elsewhere."""
    measured: bool = False
    """Whether `fold` was measured; it is counted otherwise."""

    @property
    def line(self) -> str:
        """The plan in a line."""
        card = self.card
        limits = self.limits
        known = "measured" if self.measured else "counted"
        size = f"{self.fold / 1e9:.1f} GB"
        folds = (
            f"1 fold of {size} ({known})"
            if self.at_once == 1
            else f"{self.at_once} folds at the same time, {size} each ({known})"
        )
        images = f", {self.images / 1e9:.1f} GB of images" if self.images else ""
        note = f"; it is {card.note}" if card.note else ""
        return (
            f"{card.name} ({card.title}, {card.free / 1e9:.1f} GB free): {folds}{images}; images"
            f" per forward pass: {limits.micro_batch} in training, {limits.chunk} in"
            f" inference{note}"
        )

    @property
    def used(self) -> int:
        """Bytes of all folds and images together."""
        # The process that holds the shared images has a context of its own.
        holder = CONTEXT if self.images and self.at_once > 1 else 0
        return self.at_once * self.fold + self.images + holder


def plan_cards(
    memory: FoldMemory,
    cards: Sequence[Card],
    *,
    num_folds: int,
    images: int,
    at_once: int | None = None,
    must_hold: bool = False,
) -> tuple[CardPlan, ...]:
    """Plan the folds of a run on its GPUs.

    As many folds share a GPU as fit with the batch size that was asked for, but no more than needed
    for the least number of rounds. Where not even one fold fits, the images per pass are halved
    until it does. Images stay in GPU memory unless folds need the room.

    Parameters
    ----------
    memory
        Memory of a fold.
    cards
        The GPUs.
    num_folds
        Folds to train.
    images
        Bytes of the decoded images; 0 where they are not kept in GPU memory.
    at_once
        Folds at the same time on all GPUs together; None: as many as fit.
    must_hold
        Whether images must be in GPU memory (--cache device).

    Returns
    -------
    tuple
        Plans of the GPUs in use. It is empty if none has memory for a single image.
    """
    kept = images if must_hold else 0
    able = [card for card in cards if _smaller(memory, _room(card, 1, kept)) is not None]
    # GPUs with memory for whole batches, if there are any.
    whole = [card for card in able if _shared(memory, card, 1, kept) is not None]
    chosen = whole or able
    if not chosen:
        return ()
    if at_once is None:
        most = [_most(memory, card, num_folds, kept) for card in chosen]
        shares = _even(most, num_folds)
    else:
        shares = [len(range(place, at_once, len(chosen))) for place in range(len(chosen))]
        shares = [
            min(share, 1) if card.alone else share
            for share, card in zip(shares, chosen, strict=True)
        ]
    plans = (
        _plan(memory, card, share, images, must_hold)
        for card, share in zip(chosen, shares, strict=True)
        if share
    )
    return tuple(plans)


def in_turn(shares: Sequence[int]) -> list[int]:
    """Return the place of each process, one per GPU in turn.

    Examples
    --------
    >>> in_turn([2, 1, 3])
    [0, 1, 2, 0, 2, 2]
    """
    turns = range(max(shares, default=0))
    return [place for turn in turns for place, share in enumerate(shares) if share > turn]


def _even(most: Sequence[int], num_folds: int) -> list[int]:
    """Return the folds at the same time of each GPU: the fewest that need the fewest rounds.

    `most` are the folds that fit on each.

    Examples
    --------
    >>> _even([4], 5), _even([5, 5], 5), _even([1, 5], 6)
    ([3], [3, 2], [1, 5])
    """

    def rounds(limit: int) -> int:
        return -(-num_folds // sum(min(one, limit) for one in most))

    best = rounds(num_folds)
    limit = next(one for one in range(1, num_folds + 1) if rounds(one) == best)
    taken = in_turn([min(one, limit) for one in most])[:num_folds]
    return [taken.count(place) for place in range(len(most))]


def _most(memory: FoldMemory, card: Card, num_folds: int, images: int) -> int:
    """Return how many folds fit on a GPU with whole batches, at least 1."""
    if card.alone:
        return 1
    nums = range(num_folds, 1, -1)
    return next((num for num in nums if _shared(memory, card, num, images) is not None), 1)


def _room(card: Card, num: int, images: int) -> int:
    """Return the bytes for each of `num` folds on a GPU that holds the images."""
    holder = CONTEXT if images and num > 1 else 0
    return int(SHARE * card.free - images - holder) // num


def _shared(memory: FoldMemory, card: Card, num: int, images: int) -> Limits | None:
    """Return the limits with which `num` folds fit with whole batches, None if they do not."""
    room = _room(card, num, images)
    least = min(LEAST_CHUNK, memory.rows)
    for chunk in _halves(memory.rows):
        if chunk < least:
            return None
        for releases in (False, True):
            if memory.total(memory.batch, chunk, releases=releases) <= room:
                return Limits(micro_batch=memory.batch, chunk=chunk, releases=releases)
    return None


def _smaller(memory: FoldMemory, room: int) -> Limits | None:
    """Return the largest numbers of images per pass with which a fold fits into `room`."""
    left = room - memory.fixed
    micro = next((one for one in _halves(memory.batch) if memory.training(one) <= left), None)
    chunk = next((one for one in _halves(memory.rows) if memory.inference(one) <= left), None)
    if micro is None or chunk is None:
        return None
    return Limits(micro_batch=micro, chunk=chunk, releases=True)


def _plan(memory: FoldMemory, card: Card, num: int, images: int, must_hold: bool) -> CardPlan:
    """Return the plan of `num` folds on a GPU, with the images there if they fit too."""
    for kept in (images, 0) if images and not must_hold else (images,):
        limits = _shared(memory, card, num, kept)
        if limits is not None:
            break
    else:
        # Smaller passes, for a single fold or for as many as the user wants.
        kept = images if must_hold else 0
        limits = _smaller(memory, _room(card, num, kept)) or Limits(
            micro_batch=1, chunk=1, releases=True
        )
    fold = memory.total(
        limits.micro_batch or memory.batch, limits.chunk or memory.rows, releases=limits.releases
    )
    return CardPlan(card=card, at_once=num, limits=limits, fold=fold, images=kept)


def _halves(num: int) -> list[int]:
    """Return a number and its halves, rounded up, down to 1.

    Examples
    --------
    >>> _halves(10)
    [10, 5, 3, 2, 1]
    """
    halves = [num]
    while halves[-1] > 1:
        halves.append(-(-halves[-1] // 2))
    return halves


def largest_side(memory: FoldMemory, card: Card, side: int) -> int:
    """Return the largest side at which one image per pass fits, a multiple of 32 below `side`.

    Memory that does not grow with the image is left out, so that it is an estimate.
    """
    room = SHARE * card.free - memory.fixed
    need = max(memory.training(1), memory.inference(1))
    share = max(0.0, room / need) ** 0.5
    return max(32, int(side * min(share, 1.0)) // 32 * 32)
