"""Is a slice a copy of a training slice? Nearest in a disguise-proof embedding, and in aligned pixels."""

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
        authentic: Whether the query is farther from its match than the match is from other subjects' slices.
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
        """How much a query looks like a copy: minus the logarithm of both distances and of both ratios, averaged."""
        parts = torch.stack([self.pixel, self.pixel_ratio, self.distance, self.ratio])
        return -parts.clamp(min=_FLOOR).log().mean(dim=0)


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
    """Coarse pictures by rank, each of zero mean and unit norm."""
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
        self._offsets = [(i - reach, j - reach) for i, j in offsets]
        self._mean = gallery.basis @ gallery.mean
        self._code = functional.normalize(gallery.code, dim=1)
        self._pixel_home = neighbourhood(self._code, gallery.subject)
        self._home = neighbourhood(gallery.embedding, gallery.subject)

    @torch.no_grad()
    def __call__(self, image: Float[Tensor, "N C H W"]) -> Nearest:
        """Search for slices in [-1, 1]."""
        found = [self._pixels(one) for one in looked_at(image)]
        pixel = torch.tensor([distance for distance, _, _ in found])
        match = torch.tensor([position for _, position, _ in found])
        # The embedding of the aligned slice too: a copy then has nothing left to hide but intensities.
        aligned = self.gallery.net(torch.stack([picture for _, _, picture in found]))
        versions = torch.cat([embed(self.gallery.net, image, flips=True), aligned[:, None]], dim=1)
        cosine = (versions @ self.gallery.embedding.T).amax(dim=1)
        best = cosine.max(dim=1)
        distance, embedded = 1 - best.values, best.indices
        return Nearest(
            match,
            pixel,
            pixel / self._pixel_home[match].clamp(min=_FLOOR),
            embedded,
            distance,
            distance / self._home[embedded].clamp(min=_FLOOR),
            pixel > self._pixel_home[match],
        )

    def _pixels(self, picture: Float[Tensor, "C h w"]) -> tuple[float, int, Float[Tensor, "C h w"]]:
        """Smallest distance over all alignments and training slices, whose it is, and the picture so aligned."""
        versions = torch.stack([picture.flip(axes) if axes else picture for axes in _FLIPS])
        versions = versions.repeat_interleave(len(_DEGREES), dim=0)
        degrees = torch.tensor(_DEGREES).repeat(len(_FLIPS))
        turned = _placed(versions, degrees, torch.zeros(len(versions), 2))
        code = (_unit(turned) @ self._shifted.T).unflatten(1, (len(self._offsets), -1)).flatten(0, 1) - self._mean
        cosine = functional.normalize(code, dim=1) @ self._code.T
        place, match = divmod(int(cosine.argmax()), cosine.shape[1])
        version, offset = divmod(place, len(self._offsets))
        # Once more about the best place, in half steps.
        fine = torch.tensor([(d, i, j) for d in (-1.0, 0.0, 1.0) for i in (-0.5, 0.0, 0.5) for j in (-0.5, 0.0, 0.5)])
        shift = torch.tensor(self._offsets[offset], dtype=torch.float32) + fine[:, 1:]
        near = _placed(versions[version].expand(len(fine), -1, -1, -1), degrees[version] + fine[:, 0], shift)
        code = functional.normalize(_unit(near) @ self.gallery.basis.T - self._mean, dim=1)
        best = (code @ self._code[match]).max(dim=0)
        return 1 - float(best.values), match, near[int(best.indices)]


def _placed(
    picture: Float[Tensor, "B C h w"], degrees: Float[Tensor, " B"], shift: Float[Tensor, "B 2"]
) -> Float[Tensor, "B C h w"]:
    """Coarse pictures (0 is background), turned and then shifted by coarse pixels."""
    return (moved(picture * 2 - 1, torch.deg2rad(degrees), shift) + 1) / 2


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
