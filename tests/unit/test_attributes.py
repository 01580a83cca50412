"""What says how large a class is, where there are several classes and where there is only one."""

import numpy as np
import pytest

from mri_minority.anatomy.lesion_scale import LesionScale
from mri_minority.evaluate.attributes import attribute_names, measure, size_attribute, size_attributes
from mri_minority_pipelines.edits import parse_edit


def test_the_share_of_an_only_class_says_nothing_so_its_area_counts() -> None:
    maps = np.zeros((2, 4, 4), np.uint8)
    maps[0, 0, 0], maps[1, :2] = 1, 1
    assert measure("lesion_share", maps, ["lesion"], 4.0).tolist() == [1, 1]
    assert measure(size_attribute("lesion", ["lesion"]), maps, ["lesion"], 4.0).tolist() == [4, 32]
    assert size_attribute("lesion", ["lesion", "oedema"]) == "lesion_share"


def test_sizes_among_attributes() -> None:
    assert size_attributes(attribute_names(["lesion"])) == ["lesion_area_mm2"]
    assert size_attributes(attribute_names(["grey", "white"])) == ["grey_share", "white_share"]
    assert size_attributes([]) == []


@pytest.mark.parametrize(("names", "factor"), [(("lesion",), 2 * 80 / 24), (("lesion", "oedema"), 2 * 0.9 / 0.6)])
def test_a_quantile_of_an_only_class_is_an_area(names: tuple[str, ...], factor: float) -> None:
    """Six pixels of 4 mm2: to twice the real 95th percentile, which is 80 mm2, or 0.9 of ten labelled pixels."""
    label = np.zeros((8, 8), np.uint8)
    label[0, :6] = 1
    label[1, :4] = len(names)
    if len(names) == 1:
        label[1, :4] = 0
    real = {"lesion_area_mm2": [[10.0, 80.0]], "lesion_share": [[0.1, 0.9]]}
    card = {"label_names": list(names), "real_attributes": real, "strata": {"names": ["middle"]}}
    edit = parse_edit("lesion:scale=2*p95", names).edit(label, 1, 0, card, (2.0, 2.0), np.random.default_rng(0))
    assert isinstance(edit, LesionScale)
    assert edit.factor == pytest.approx(factor)
