"""States of MJX are drawn, with OpenGL and without."""

from pathlib import Path

import mujoco
import numpy as np
import pytest
from kit.env import physics
from kit.env.physics import render_physics
from mujoco import mjx

MODEL = mujoco.MjModel.from_xml_path(str(Path(physics.__file__).parents[2] / "model.xml"))
GREEN, BLUE = 1, 2


def state(x: float, y: float) -> mjx.Data:
    """The puck at x, y; the goal in the middle."""
    return mjx.make_data(MODEL).replace(
        qpos=np.array([x, y], np.float32), mocap_pos=np.zeros((1, 3))
    )


def centre(image: np.ndarray, channel: int) -> np.ndarray:
    """Where a colour is, as shares of the width and of the height."""
    others = np.delete(image, channel, axis=-1).max(-1).astype(int)
    rows, columns = np.nonzero(image[..., channel] > others + 40)
    return np.array([columns.mean(), rows.mean()]) / np.array(image.shape[1::-1])


@pytest.mark.parametrize("has_opengl", [True, False])
def test_goal_and_puck_are_where_they_are(
    has_opengl: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if has_opengl and not physics._can_draw():
        pytest.skip("there is no OpenGL")
    monkeypatch.setattr(physics, "_can_draw", lambda: has_opengl)
    image = render_physics(MODEL, state(0.7, 0.7), height=60, width=60, camera="above")
    assert (image.shape, image.dtype) == ((60, 60, 3), np.uint8)
    np.testing.assert_allclose(centre(image, GREEN), [0.5, 0.5], atol=0.03)
    right, down = centre(image, BLUE)
    assert right > 0.6
    assert down < 0.4


def test_without_opengl_one_sentence_says_so(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(physics, "LIBRARIES", ("nothing",))
    physics._can_draw.cache_clear()
    try:
        for _ in range(2):
            render_physics(MODEL, state(0.0, 0.0))
    finally:
        physics._can_draw.cache_clear()
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("MuJoCo finds no OpenGL to draw with (tried nothing), so geoms")
