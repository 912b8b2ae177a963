"""Rules: on what scales observations are, and what enters the networks."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from brax.training import types
from brax.training.acme import running_statistics

from ..ppo.networks import PIXELS, observation_shapes, without_images
from ..trace.calls import KEY, key_of, leaves, part
from ..trace.jaxprs import entering_products
from .engine import Finding, names, warning
from .rollout import Rollout
from .stages import Subject

LARGE = 50.0  # a network learns slowly from numbers of this size


@warning("observation-scale", "observations vary, on similar scales", "finite")
def observation_scale(rollout: Rollout) -> Iterator[Finding]:
    for path, low, high in _ranges(rollout):
        span = (high - low).ravel()
        constant = np.flatnonzero(span == 0)
        if channel := _dead_channel(span):
            what = f"{path}: {channel} never changes"
            yield Finding(what, "write that channel, or leave it out of the image", (path,))
        elif len(constant) == span.size or (len(constant) and span.size <= IMAGE):
            which = f"{len(constant)} of {span.size} components never change ({names(constant)})"
            fix = "obs=jnp.stack([x, y])  # without what never changes"
            yield Finding(f"{path}: {which}", fix, (path,))
        moving = np.sort(span[span > 0])
        if len(moving) > 1 and moving[-1] > 1000 * moving[(len(moving) - 1) // 2]:
            # The widest gap above the usual ones: what is beyond it has another scale.
            upper = moving[(len(moving) - 1) // 2 :]
            large = np.flatnonzero(span >= upper[1:][np.argmax(upper[1:] / upper[:-1])])
            at, spans = _indices(large), np.sort(span[large])
            about = f"spans {spans[0]:.3g}"
            if len(large) > 1:
                about = f"span {spans[0]:.3g} to {spans[-1]:.3g}"
            rest = np.median(np.delete(span, large)[np.delete(span, large) > 0])
            what = f"{path}[{at}] {about}, the others about {rest:.3g}"
            fix = f"obs = obs.at[{at}].divide({float(f'{spans[-1]:.1g}'):g})  # in reset and step"
            yield Finding(what, fix, (path,))


def _ranges(rollout: Rollout) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The lowest and the highest value of each component of the observation, by path."""
    for path, low in rollout.last["lowest"].items():
        yield path, np.min(low, axis=0), np.max(rollout.last["highest"][path], axis=0)


def _indices(found: np.ndarray) -> str:
    """An index, a range or a list of indices, as in an index expression."""
    first, last = int(found[0]), int(found[-1])
    if len(found) == 1:
        return str(first)
    return (
        f"{first}:{last + 1}" if last - first == len(found) - 1 else f"jnp.array({found.tolist()})"
    )


IMAGE = 64  # a longer vector is likely to hold an image, where much never changes


def _dead_channel(span: np.ndarray) -> str | None:
    """A channel of a flat image (height * width * channels) that is never written."""
    for channels in range(2, 17):
        planes = span[: span.size - span.size % channels].reshape(-1, channels)
        dead = np.all(planes == 0, axis=0)
        flat = span.size > IMAGE and span.size % channels == 0 and len(planes) >= 25
        if flat and np.any(dead) and not np.all(dead):
            return f"channel {names(np.flatnonzero(dead))} of {channels}"
    return None


@warning("input-scale", "what enters the networks is on a scale of about 1", "finite")
def input_scale(subject: Subject, rollout: Rollout) -> Iterator[Finding]:
    for path, largest in _entering(subject, rollout).items():
        if largest > LARGE:
            what = f"{path}: values of up to {largest:.3g} enter the networks as they are"
            fix = "image.astype(jnp.float32) / 255  # in the encoder, or in reset and step"
            if subject.task.network_factory and not subject.task.settings.normalize_observations:
                fix += "; for a vector: normalize_observations=True"
            yield Finding(what, fix, (path,))


def _entering(subject: Subject, rollout: Rollout) -> dict[str, float]:
    """The largest value of each entry of the observation that a first layer is given."""
    if subject.task.network_factory is None:
        return _images_of_bytes(rollout)
    samples = [state.obs for state in rollout.samples.values()]
    obs = jax.tree.map(lambda *x: jnp.concatenate(x), *samples)
    shapes = observation_shapes(jax.tree.map(lambda x: x.shape[1:], obs))
    normalize = subject.task.settings.normalize_observations
    networks = subject.task.network_factory(
        shapes,
        subject.env.action_size,
        running_statistics.normalize if normalize else types.identity_observation_preprocessor,
    )
    params = jax.eval_shape(networks.policy_network.init, KEY)

    def sizes(obs: Any) -> dict[int, jax.Array]:
        vectors = without_images(obs)
        statistics = running_statistics.init_state(jax.tree.map(lambda x: x[0], vectors))
        statistics = running_statistics.update(statistics, vectors)
        # Only what comes before the first layer is looked at, whatever the parameters are.
        ones = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), params)
        apply = jax.make_jaxpr(lambda x: networks.policy_network.apply(statistics, ones, x))(obs)
        return entering_products(apply, jax.tree.leaves(obs))

    found = rollout.compile(sizes, obs)(obs)
    paths = [path for path in leaves(rollout.start) if part(path) == "obs"]
    return {paths[i]: float(x) for i, x in found.items()}


def _images_of_bytes(rollout: Rollout) -> dict[str, float]:
    """Images of floats from 0 to 255, where the networks are not known."""
    found = {}
    for path, sizes in rollout.series["sizes"].items():
        if path.startswith("obs") and key_of(path).startswith(PIXELS):
            found[path] = float(np.max(sizes))
    for path, low, high in _ranges(rollout):
        bytes_like = (low >= 0) & (high > 100) & (high <= 255)
        if np.sum(bytes_like) > max(IMAGE, low.size / 2):
            found[path] = float(np.max(high))
    return found
