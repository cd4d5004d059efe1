"""Plan of a run on its GPUs: which folds at the same time, with how many images per pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.fold_memory import CONTEXT, FoldMemory
from pipeline.memory import Limits
from pipeline.training.gpu_cards import Card

__all__ = [
    "LEAST_CHUNK",
    "SHARE",
    "CardPlan",
    "even_shares",
    "in_turn",
    "largest_scale",
    "least_need",
    "plan_cards",
]

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
        """Return the plan in a line."""
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
    until it does. Images stay in GPU memory unless folds need the room. GPUs with more free memory
    come first.

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
        Largest number of folds at the same time on all GPUs together; None: as many as fit.
    must_hold
        Whether images must be in GPU memory (--cache device).

    Returns
    -------
    tuple
        Plans of the GPUs in use. It is empty if none has memory for a single image.
    """
    kept = images if must_hold else 0
    free = sorted(cards, key=lambda card: card.free, reverse=True)
    limits = {card: _single(memory, card, kept) for card in free}
    able = [card for card in free if limits[card] is not None]
    # GPUs with memory for whole batches, if there are any.
    whole = [card for card in able if _is_whole(memory, limits[card])]
    chosen = whole or able
    if not chosen:
        return ()
    most = [_most(memory, card, num_folds, kept) for card in chosen]
    shares = even_shares(most, num_folds)
    if at_once is not None:
        taken = in_turn(most)[: min(at_once, num_folds)]
        shares = [taken.count(place) for place in range(len(chosen))]
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


def even_shares(most: Sequence[int], num_folds: int) -> list[int]:
    """Return the folds at the same time of each GPU: the fewest that need the fewest rounds.

    `most` are the folds that fit on each.

    Examples
    --------
    >>> even_shares([4], 5), even_shares([5, 5], 5), even_shares([1, 5], 6)
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


def _single(memory: FoldMemory, card: Card, images: int) -> Limits | None:
    """Return the limits of a fold that has a GPU to itself, None if no image fits.

    The count is an estimate, and passes are halved anyway where it is too low. So images per pass
    are lowered only where the count exceeds the free memory, and not already at `SHARE` of it.
    """
    fits = _shared(memory, card, 1, images)
    if fits is not None:
        return fits
    most = card.free - images - memory.fixed
    room = _room(card, 1, images) - memory.fixed
    micro = _largest(memory.training, memory.batch, room=room, most=most)
    if memory.training(memory.batch) <= most:
        micro = memory.batch
    chunk = _largest(memory.inference, memory.rows, room=room, most=most)
    if micro is None or chunk is None:
        return None
    return Limits(micro_batch=micro, chunk=chunk, releases=True)


def _largest(need: Callable[[int], int], num: int, *, room: int, most: int) -> int | None:
    """Return the largest half of `num` that fits into `room`, or one that fits into `most`."""
    fitting = [one for one in _halves(num) if need(one) <= most]
    return next((one for one in fitting if need(one) <= room), fitting[-1] if fitting else None)


def _is_whole(memory: FoldMemory, limits: Limits | None) -> bool:
    return limits is not None and limits.micro_batch == memory.batch


def _plan(memory: FoldMemory, card: Card, num: int, images: int, must_hold: bool) -> CardPlan:
    """Return the plan of `num` folds on a GPU, with the images there if they fit too."""
    places = (images,) if must_hold or not images else (images, 0)
    for kept in places:
        limits = _shared(memory, card, num, kept)
        if limits is not None:
            break
    else:
        limits = _single(memory, card, kept)
        assert limits is not None
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


def least_need(memory: FoldMemory) -> int:
    """Return the bytes of a fold with the fewest images per pass."""
    training = min(memory.training(num) for num in _halves(memory.batch))
    inference = min(memory.inference(num) for num in _halves(memory.rows))
    return memory.fixed + max(training, inference)


def largest_scale(memory: FoldMemory, card: Card) -> float:
    """Return the factor of width and height, up to 1, with which a fold fits on a GPU; or 0.

    Memory of passes is taken to grow with the number of pixels, so that it is an estimate.
    """
    room = SHARE * card.free - memory.fixed
    share = room / (least_need(memory) - memory.fixed)
    scale: float = max(0.0, min(1.0, share)) ** 0.5
    return scale
