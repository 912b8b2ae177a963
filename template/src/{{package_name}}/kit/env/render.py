"""What an environment's `render` returns, as an image."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, PipelineEnv, State
from PIL import Image

from ..errors import UsageError


def draw(environment: Env, batch: State) -> Image.Image:
    """The only state of `batch`, drawn; raises UsageError as `write_gif` does."""
    state = jax.tree.map(lambda x: x[0] if x.shape[:1] == (1,) else x, batch)
    render = getattr(environment, "render", None)
    if render is None:
        raise UsageError("the environment has no render(state)")
    try:
        with warnings.catch_warnings(action="ignore"):  # MuJoCo warns where there is no display
            if getattr(render, "__func__", None) is PipelineEnv.render:  # it draws trajectories
                returned = render([state.pipeline_state])[0]
            else:
                returned = render(jax.device_get(state))
    except Exception as error:
        hint = "; to draw without a display, set MUJOCO_GL=egl" * ("GL" in repr(error))
        raise UsageError(f"render raised {type(error).__name__}: {error}{hint}") from error
    return as_image(returned)


def as_image(returned: Any) -> Image.Image:
    """Makes an RGB image of what `render` returned.

    Args:
      returned: (height, width, 3) uint8. Other integers from 0 to 255, floats from 0 to 1 and bools
        will do too, as will a grey image, (height, width) or (height, width, 1), an RGBA image,
        (height, width, 4), which is drawn on white, and an image of Pillow.

    Raises:
      UsageError: anything else.
    """
    if isinstance(returned, Image.Image):
        returned = returned.convert("RGBA")
    try:
        pixels = np.asarray(returned)
    except (TypeError, ValueError):  # such as lists of different lengths
        pixels = np.asarray(None)
    is_array = pixels.dtype.kind not in "OSU"
    found = f"{pixels.dtype} {pixels.shape}" if is_array else type(returned).__name__
    numbers = {np.integer: 255, np.floating: 1, np.bool_: 1}
    most = next((most for kind, most in numbers.items() if jnp.issubdtype(pixels.dtype, kind)), 0)
    low = high = np.nan
    if most and pixels.size:
        low, high = float(pixels.min()), float(pixels.max())
        found += f" with values from {low:g} to {high:g}"
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    has_shape = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    fits = max(pixels.shape, default=0) <= 65_535  # in a GIF
    slack = 1e-3 if most == 1 else 0  # rounding
    if not (has_shape and fits and -slack <= low <= high <= most + slack):
        raise UsageError(
            f"render returned {found}, but an image is (height, width, 3) uint8, or floats from 0 "
            "to 1"
        )
    scaled = np.clip(np.float32(pixels) * (255 / most), 0, 255)
    image = Image.fromarray(np.round(scaled).astype(np.uint8))
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
