"""Is a slice a copy of a training slice? It is laid over the likeliest ones, and compared where it fits best."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from mri_minority.evaluate.disguise import moved
from mri_minority.evaluate.embedding import CopyNet, looked_at

NEIGHBOURS = 5
_DEGREES = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)
_FLIPS: tuple[tuple[int, ...], ...] = ((), (-2,), (-1,), (-2, -1))
_SHIFTS_PX = 4
_FINE = [(d, i, j) for d in (-1.0, 0.0, 1.0) for i in (-0.5, 0.0, 0.5) for j in (-0.5, 0.0, 0.5)]
"""Steps about the best place of the grid: degrees, and coarse pixels along both axes."""
_HALVINGS = 3
_LIKELY, _LIKELY_EMBEDDED, _KEPT = 6, 2, 3
_FLOOR = 1e-3


@dataclass(frozen=True)
class Gallery:
    """The training slices as the audit remembers them: an embedding, and a coarse picture in few numbers.

    Args:
        net: The embedding.
        embedding: Unit rows (M, F).
        mean: Mean of the coarse pictures, each of zero mean and unit norm (P,).
        basis: Principal directions, whitened (K, P).
        code: Pictures less the mean, in the basis (M, K).
        subject: Number of the subject of every slice (M,).
        rarity: Any number that grows with rarity, for example the level (M,).
        size: Channels, height and width (C, h, w) of the coarse pictures, P = C h w.
        pool: Pixels of a slice along one side of a coarse pixel.
    """

    net: CopyNet
    embedding: Float[Tensor, "M F"]
    mean: Float[Tensor, " P"]
    basis: Float[Tensor, "K P"]
    code: Float[Tensor, "M K"]
    subject: Int[Tensor, " M"]
    rarity: Float[Tensor, " M"]
    size: tuple[int, int, int]
    pool: int


@dataclass(frozen=True)
class Nearest:
    """What the search found for every query (N,).

    Args:
        match: Position of the nearest training slice in aligned pixels.
        pixel: Distance to it: 1 - correlation of coarse pictures less the mean picture, after the best alignment.
        pixel_ratio: That divided by the match's mean distance to its nearest slices of other subjects.
        embedded: Position of the nearest training slice in the embedding.
        distance: Cosine distance to it.
        ratio: That divided by the same of the match.
        authentic: Whether the query is farther from its nearest in the embedding than that one from other subjects'
            slices (both unaligned, so that they can be compared).
    """

    match: Int[Tensor, " N"]
    pixel: Float[Tensor, " N"]
    pixel_ratio: Float[Tensor, " N"]
    embedded: Int[Tensor, " N"]
    distance: Float[Tensor, " N"]
    ratio: Float[Tensor, " N"]
    authentic: Bool[Tensor, " N"]

    @property
    def suspicion(self) -> Float[Tensor, " N"]:
        """How much a query looks like a copy: minus the logarithms of the aligned distance and of its ratio, averaged.

        The embedding proposes matches and does not judge: aligned pixels tell copies and strangers apart much better.
        """
        return -torch.stack([self.pixel, self.pixel_ratio]).clamp(min=_FLOOR).log().mean(dim=0)


@torch.no_grad()
def embed(net: CopyNet, image: Float[Tensor, "N C H W"], flips: bool) -> Float[Tensor, "N V F"]:
    """Unit vectors of slices in [-1, 1]; with `flips` of the four mirrored versions (V = 4), else V = 1."""
    parts = []
    for start in range(0, len(image), 64):
        seen = looked_at(image[start : start + 64])
        versions = [seen.flip(axes) if axes else seen for axes in (_FLIPS if flips else _FLIPS[:1])]
        parts.append(torch.stack([net(version) for version in versions], dim=1))
    return torch.cat(parts)


def pictures(image: Float[Tensor, "N C H W"]) -> Float[Tensor, "N P"]:
    """Coarse pictures, each of zero mean and unit norm."""
    return _unit(looked_at(image))


def principal(picture: Float[Tensor, "N P"], most: int) -> tuple[Float[Tensor, " P"], Float[Tensor, "K P"]]:
    """Mean picture and at most `most` principal directions, each divided by its spread.

    Divided so, fine anatomy, which tells people apart, counts as much as the coarse outline that all share.
    """
    mean = picture.mean(dim=0)
    rank = max(1, min(most, len(picture) - 1, picture.shape[1]))
    _, spread, directions = torch.linalg.svd(picture - mean, full_matrices=False)
    spread = spread[:rank].clamp(min=float(spread[0]) * 1e-3) / math.sqrt(len(picture))
    return mean, (directions[:rank] / spread[:, None]).contiguous()


class Search:
    """Looks for every query's nearest training slice, under flips, shifts up to 4 pixels and rotations up to 6 degrees.

    Args:
        gallery: The training slices.
    """

    def __init__(self, gallery: Gallery) -> None:
        """Prepare shifted directions and every training slice's own neighbourhood."""
        self.gallery = gallery
        _, height, width = gallery.size
        reach = math.ceil(_SHIFTS_PX / gallery.pool)
        planes = functional.pad(gallery.basis.unflatten(1, gallery.size), [reach] * 4)
        offsets = [(i, j) for i in range(2 * reach + 1) for j in range(2 * reach + 1)]
        self._shifted = torch.cat([planes[..., i : i + height, j : j + width].flatten(1) for i, j in offsets])
        self._offsets = torch.tensor([(float(i - reach), float(j - reach)) for i, j in offsets])
        self._mean = gallery.basis @ gallery.mean
        self._code = functional.normalize(gallery.code, dim=1)
        self._pixel_home = neighbourhood(self._code, gallery.subject)
        self._home = neighbourhood(gallery.embedding, gallery.subject)

    @torch.no_grad()
    def __call__(self, image: Float[Tensor, "N C H W"]) -> Nearest:
        """Search for slices in [-1, 1]."""
        cosine = (embed(self.gallery.net, image, flips=True) @ self.gallery.embedding.T).amax(dim=1)
        likely = cosine.topk(min(_LIKELY_EMBEDDED, cosine.shape[1]), dim=1)
        found = [self._aligned(one, also) for one, also in zip(looked_at(image), likely.indices, strict=True)]
        pixel = torch.tensor([distance for distance, _ in found])
        match = torch.tensor([position for _, position in found])
        distance, embedded = 1 - likely.values[:, 0], likely.indices[:, 0]
        return Nearest(
            match,
            pixel,
            pixel / self._pixel_home[match].clamp(min=_FLOOR),
            embedded,
            distance,
            distance / self._home[embedded].clamp(min=_FLOOR),
            distance > self._home[embedded],
        )

    def _aligned(self, picture: Float[Tensor, "C h w"], also: Int[Tensor, " E"]) -> tuple[float, int]:
        """Smallest distance over all alignments and training slices, and whose it is.

        A grid of alignments finds likely training slices; each of them, in all four flips (a head is much like its
        mirror image, so the grid often prefers the wrong one), is then aligned in ever smaller steps.
        """
        flipped = torch.stack([picture.flip(axes) if axes else picture for axes in _FLIPS])
        degrees = torch.tensor(_DEGREES)
        turned = _placed(
            flipped.repeat_interleave(len(degrees), dim=0),
            degrees.repeat(len(_FLIPS)),
            torch.zeros(len(_FLIPS) * len(degrees), 2),
        )
        code = (_unit(turned) @ self._shifted.T).unflatten(1, (len(self._offsets), -1)).flatten(0, 1) - self._mean
        cosine = functional.normalize(code, dim=1) @ self._code.T
        best = cosine.unflatten(0, (len(_FLIPS), -1)).max(dim=1)
        likely = best.values.amax(dim=0).topk(min(_LIKELY, len(self._code))).indices
        match = torch.cat([likely, also]).unique()
        place = best.indices[:, match].flatten()
        angle, shift = degrees[place // len(self._offsets)], self._offsets[place % len(self._offsets)]
        flip = torch.arange(len(_FLIPS)).repeat_interleave(len(match))
        match, step = match.repeat(len(_FLIPS)), torch.tensor(_FINE)
        similarity = torch.zeros(0)
        for _ in range(_HALVINGS):
            angles, shifts = angle[:, None] + step[:, 0], shift[:, None] + step[:, 1:]
            placed = _placed(flipped[flip].repeat_interleave(len(step), dim=0), angles.flatten(), shifts.flatten(0, 1))
            code = functional.normalize(_unit(placed) @ self.gallery.basis.T - self._mean, dim=1)
            near = (code.unflatten(0, (len(match), -1)) * self._code[match, None]).sum(dim=2).max(dim=1)
            kept = near.values.topk(min(_KEPT, len(match))).indices
            at = near.indices[kept]
            angle, shift, flip, match = angles[kept, at], shifts[kept, at], flip[kept], match[kept]
            similarity, step = near.values[kept], step / 2
        return 1 - float(similarity[0]), int(match[0])


def _placed(
    picture: Float[Tensor, "B C h w"], degrees: Float[Tensor, " B"], shift: Float[Tensor, "B 2"]
) -> Float[Tensor, "B C h w"]:
    """Coarse pictures (0 is flat), turned and then shifted by coarse pixels."""
    return moved(picture - 1, torch.deg2rad(degrees), shift) + 1


def _unit(picture: Float[Tensor, "B C h w"]) -> Float[Tensor, "B P"]:
    flat = picture.flatten(1)
    return functional.normalize(flat - flat.mean(dim=1, keepdim=True), dim=1)


def neighbourhood(rows: Float[Tensor, "M F"], subject: Int[Tensor, " M"]) -> Float[Tensor, " M"]:
    """Mean cosine distance of each unit row to its 5 nearest rows of other subjects; block by block."""
    parts = []
    for start in range(0, len(rows), 512):
        cosine = rows[start : start + 512] @ rows.T
        cosine[subject[start : start + 512, None] == subject[None]] = -1.0
        nearest = cosine.topk(min(NEIGHBOURS, len(rows)), dim=1).values
        parts.append(1 - nearest.mean(dim=1))
    return torch.cat(parts)


def twins(net: CopyNet, image: Float[Tensor, "N C H W"], closer_than: float) -> list[tuple[int, int]]:
    """Pairs within a set that lie closer in the embedding than allowed, mirrored ones included."""
    versions = embed(net, image, flips=True)
    pairs = []
    for first in range(len(image) - 1):
        cosine = (versions[first] @ versions[first + 1 :, 0].T).amax(dim=0)
        pairs += [(first, first + 1 + int(j)) for j in torch.nonzero(1 - cosine < closer_than)[:, 0]]
    return pairs
