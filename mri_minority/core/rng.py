"""Randomness is an argument: one generator per item, so that an item does not depend on its batch or worker."""

import hashlib

import torch


def generator_for(seed: int, *path: int | str) -> torch.Generator:
    """Return the CPU generator that belongs to one item.

    The path (for example ``("draw", item, j)``) is hashed together with the seed, so neighbouring items
    get unrelated streams, and item ``i`` gets the same stream in one process or in a hundred.

    Args:
        seed: The run's seed, any integer.
        path: What the item is: integers and words.

    Returns:
        A fresh ``torch.Generator`` on the CPU.
    """
    text = "/".join([str(seed), *(f"{type(part).__name__}:{part}" for part in path)])
    digest = hashlib.sha256(text.encode()).digest()
    generator = torch.Generator(device="cpu")
    generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return generator


def normal_for(seed: int, items: list[int], shape: tuple[int, ...], *path: int | str) -> torch.Tensor:
    """Draw standard normal noise, item by item, each from its own generator.

    Args:
        seed: The run's seed.
        items: Item numbers, one per row of the result.
        shape: Shape of one item, for example (C, H, W).
        path: What the noise is for; part of the generator's name.

    Returns:
        float32 tensor (len(items), *shape).
    """
    return torch.stack([torch.randn(shape, generator=generator_for(seed, *path, item)) for item in items])
