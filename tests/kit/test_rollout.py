"""Pictures: what `render` may return, and what is said about anything else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kit.env import render
from kit.errors import UsageError
from kit.run import gif
from matplotlib.figure import Figure
from PIL import Image
from toys import Toy

COLOURS = np.array([[[0, 0, 0], [255, 0, 51]], [[0, 102, 0], [255, 255, 255]]], np.uint8)
GREY = np.array([[0, 51], [102, 255]], np.uint8)
OPAQUE = np.full((2, 2, 1), 255, np.uint8)


def drawn(returned: Any) -> np.ndarray:
    """The picture of a state, from an environment whose `render` returns `returned`."""

    class Drawing(Toy):
        def render(self, state: Any) -> Any:
            return returned

    batch = jax.vmap(Drawing().reset)(jax.random.PRNGKey(0)[None])
    return np.asarray(render.draw(Drawing(), batch))


@pytest.mark.slow
@pytest.mark.parametrize(
    "returned",
    [
        COLOURS,
        jnp.asarray(COLOURS),
        COLOURS.astype(np.int64),
        COLOURS.tolist(),
        COLOURS / 255,
        COLOURS / 255 * 1.0000001,
        jnp.asarray(COLOURS / 255, jnp.bfloat16),
        COLOURS.astype(np.float16) / 255,
        np.concatenate([COLOURS, OPAQUE], -1),
        np.concatenate([COLOURS, OPAQUE], -1) / 255,
        Image.fromarray(COLOURS),
        Image.fromarray(COLOURS).quantize(8),
    ],
    ids=lambda x: f"{type(x).__name__} {getattr(x, 'dtype', '')} {getattr(x, 'shape', '')}",
)
def test_colours_come_through(returned: Any) -> None:
    np.testing.assert_array_equal(drawn(returned), COLOURS)


@pytest.mark.parametrize("convert", [np.asarray, lambda x: x[..., None], lambda x: x / 255])
def test_grey_images_are_drawn(convert: Callable[[np.ndarray], Any]) -> None:
    np.testing.assert_array_equal(drawn(convert(GREY)), np.stack([GREY] * 3, -1))


def test_a_mask_is_black_and_white() -> None:
    np.testing.assert_array_equal(drawn(GREY > 100)[..., 0], [[0, 0], [255, 255]])


@pytest.mark.parametrize("convert", [np.asarray, Image.fromarray])
def test_what_is_transparent_is_white(convert: Callable[[np.ndarray], Any]) -> None:
    see_through = convert(np.concatenate([COLOURS, 0 * OPAQUE], -1))
    np.testing.assert_array_equal(drawn(see_through), np.full_like(COLOURS, 255))


@pytest.mark.parametrize(
    ("returned", "found"),
    [
        (None, "returned NoneType"),
        (Figure(), "returned Figure"),
        ({"image": COLOURS}, "returned dict"),
        ((COLOURS, {}), "returned tuple"),
        ([[1, 2], [3]], "returned list"),
        ("image.png", "returned str"),
        (3.5, "returned float64 () with values from 3.5 to 3.5"),
        (np.zeros(4), "returned float64 (4,) with values from 0 to 0"),
        (COLOURS[None], "returned uint8 (1, 2, 2, 3) with values from 0 to 255"),
        (COLOURS.transpose(2, 0, 1), "returned uint8 (3, 2, 2) with values from 0 to 255"),
        (COLOURS.astype(np.float64), "returned float64 (2, 2, 3) with values from 0 to 255"),
        (COLOURS / 255 - 0.5, "returned float64 (2, 2, 3) with values from -0.5 to 0.5"),
        (COLOURS * np.nan, "returned float64 (2, 2, 3) with values from nan to nan"),
        (COLOURS.astype(np.int16) + 1, "returned int16 (2, 2, 3) with values from 1 to 256"),
        (COLOURS[:0], "returned uint8 (0, 2, 3)"),
        (COLOURS * 1j, "returned complex128 (2, 2, 3)"),
        (np.zeros((1, 70_000, 3), np.uint8), "returned uint8 (1, 70000, 3)"),
    ],
    ids=lambda x: x[9:] if isinstance(x, str) else "",
)
def test_anything_else_is_named_beside_what_is_expected(returned: Any, found: str) -> None:
    with pytest.raises(UsageError) as error:
        drawn(returned)
    text = str(error.value)
    assert text.startswith(f"render {found}")
    assert text.endswith(", but an image is (height, width, 3) uint8, or floats from 0 to 1")


def test_images_of_different_sizes_are_refused(tmp_path: Path) -> None:
    frames = [Image.new("RGB", size) for size in ((8, 8), (8, 8), (8, 9))]
    with pytest.raises(UsageError, match="8 x 8 and 9 x 8"):
        gif.save_gif(tmp_path / "play.gif", frames)
