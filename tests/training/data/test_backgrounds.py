"""Environment maps: what is none is named in one sentence, and nothing in it is run."""

import numpy as np
import pytest

from training.data.backgrounds import read_environments


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"light": np.ones((4, 8, 3))}, "holds no radiance; expected `radiance`"),
        ({"radiance": np.ones((4, 8))}, r"radiance of shape \(4, 8\); expected"),
        ({"radiance": np.ones((4, 8, 4))}, r"radiance of shape \(4, 8, 4\); expected"),
        ({"radiance": np.array([{"a": 1}], dtype=object)}, "no arrays that can be read"),
        (None, "no arrays that can be read"),
    ],
)
def test_files_that_are_no_environment_maps_are_named(arrays, said, tmp_path):
    if arrays is None:
        (tmp_path / "sky.npz").write_text("no archive")
    else:
        np.savez(tmp_path / "sky.npz", **arrays)
    with pytest.raises(ValueError, match=rf"sky\.npz holds {said.removeprefix('holds ')}"):
        read_environments(tmp_path)


def test_environment_maps_are_read_by_name(tmp_path):
    radiance = np.random.default_rng(0).random((4, 8, 3))
    np.savez(tmp_path / "sky.npz", radiance=radiance)
    found = read_environments(tmp_path)
    assert list(found) == ["sky"]
    np.testing.assert_allclose(found["sky"], radiance, rtol=1e-6)
