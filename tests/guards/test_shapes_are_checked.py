"""Annotations of the library are checked when tests run: without this, a shape in a signature is only a comment."""

import pytest
import torch
from jaxtyping import TypeCheckError

from mri_minority.core.rng import normal_for
from mri_minority.diffusion.kernel import ChannelGroups, add_noise


def test_a_wrong_shape_is_refused() -> None:
    x_0, groups = torch.zeros(2, 1, 4, 4), ChannelGroups((1,))
    assert torch.equal(add_noise(x_0, torch.ones(2, 1), torch.ones(2, 1, 4, 4), groups), torch.ones(2, 1, 4, 4))
    with pytest.raises(TypeCheckError, match="sigma"):
        add_noise(x_0, torch.ones(3, 1), torch.ones(2, 1, 4, 4), groups)
    with pytest.raises(TypeCheckError, match="sigma"):
        add_noise(x_0, torch.ones(2), torch.ones(2, 1, 4, 4), groups)


def test_a_wrong_type_is_refused() -> None:
    with pytest.raises(TypeCheckError, match="seed"):
        normal_for("nought", [0], (1,))  # type: ignore[arg-type]
