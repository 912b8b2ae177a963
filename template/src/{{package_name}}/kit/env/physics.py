"""Drawing physics of MuJoCo, where there is OpenGL and where there is none."""

import contextlib
import functools
import importlib
import os
import sys
import warnings
from typing import Any

import mujoco
import numpy as np

# Libraries that draw without a screen come first. Other systems have one library, MuJoCo's default.
LIBRARIES = ("egl", "osmesa", "glfw")


def render_physics(
    model: mujoco.MjModel, data: Any, *, height: int = 128, width: int = 128, camera: Any = -1
) -> np.ndarray:
    """Draws a state of MJX with `mujoco.Renderer`.

    Where no OpenGL is found, which is said once, discs stand for the geoms, as seen from above.

    Args:
      model: of the physics.
      data: `mjx.Data` of one environment, not of a batch; positions, mocap bodies, controls and
        the time are read.
      height, width: of the image; the model's `<global offwidth="..."/>` has to allow them.
      camera: its name or number; -1 is the free camera.

    Returns:
      (height, width, 3) uint8.
    """
    drawn = mujoco.MjData(model)
    for name in ("qpos", "qvel", "act", "ctrl", "mocap_pos", "mocap_quat", "time"):
        setattr(drawn, name, np.asarray(getattr(data, name)))
    mujoco.mj_forward(model, drawn)  # `mjx.step` leaves the places of geoms one step behind
    if not _can_draw():
        return _discs(model, drawn, height, width)
    renderer = _renderer(model, height, width)
    renderer.update_scene(drawn, camera)
    return np.array(renderer.render())


_renderer = functools.lru_cache(maxsize=4)(mujoco.Renderer)


@functools.cache
def _can_draw() -> bool:
    """Makes MuJoCo draw with the first OpenGL that works; MUJOCO_GL names the one to use."""
    names = [os.environ["MUJOCO_GL"]] if os.environ.get("MUJOCO_GL") else LIBRARIES
    names = names if sys.platform == "linux" else ["its default"]
    # MuJoCo chooses when it is imported, and takes GLFW, which needs a screen.
    chosen = sys.modules[mujoco.Renderer.__module__].gl_context
    for name in names:
        # Each fails in another way: a library is missing, or there is no screen.
        with contextlib.suppress(Exception), warnings.catch_warnings(action="ignore"):
            if name in LIBRARIES:
                os.environ.pop("PYOPENGL_PLATFORM", None)  # of the one before
                chosen.GLContext = importlib.import_module(f"mujoco.{name}").GLContext
            mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 16, 16).close()
            return True
    print(
        f"MuJoCo finds no OpenGL to draw with (tried {', '.join(names)}), so geoms are drawn as "
        "discs: installing libegl1 or libosmesa6 helps.",
        file=sys.stderr,
    )
    return False


def _discs(model: mujoco.MjModel, data: mujoco.MjData, height: int, width: int) -> np.ndarray:
    """All geoms but planes as discs, seen from above, the highest in front."""
    image = np.full((height, width, 3), 255, np.uint8)
    reach = 1.2 * model.stat.extent
    x = model.stat.center[0] + reach * np.linspace(-1, 1, width) * width / height
    y = model.stat.center[1] + reach * np.linspace(1, -1, height)[:, None]
    for geom in np.argsort(data.geom_xpos[:, 2], kind="stable"):
        if model.geom_type[geom] != mujoco.mjtGeom.mjGEOM_PLANE:
            far = np.hypot(x - data.geom_xpos[geom, 0], y - data.geom_xpos[geom, 1])
            colour = 255 * model.geom_rgba[geom, :3]
            image[far < max(model.geom_rbound[geom], 2 * reach / height)] = colour
    return image
