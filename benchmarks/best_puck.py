"""The best possible return of a new physics project, and how near training comes to it.

The puck moves on each axis by itself: a motor of gear 2 pushes a mass of 1 kg with a damping of
1 N s/m, and `implicitfast` takes v' = (v + dt * 2 a) / (1 + dt). So the return of an episode can be
differentiated by its actions, without MJX, and gradient ascent finds the best ones. That the
formula is the environment is asserted first.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from project import import_project, rendered

STARTS, STEPS, ITERATIONS = 64, 100, 3000
DT, SUBSTEPS, EFFORT_COST = 0.02, 4, 0.02


def rewards(start: jax.Array, goal: jax.Array, actions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rewards (STEPS,) and positions (STEPS, 2) of an episode."""

    def step(carry: Any, action: jax.Array) -> Any:
        x, v = carry
        for _ in range(SUBSTEPS):
            v = (v + DT * 2 * action) / (1 + DT)
            x = x + DT * v
        away = jnp.sqrt(jnp.sum((goal - x) ** 2) + 1e-12)
        return (x, v), (jnp.exp(-away) - EFFORT_COST * jnp.mean(action**2), x)

    return jax.lax.scan(step, (start, jnp.zeros(2)), actions)[1]


def best_actions(start: jax.Array, goal: jax.Array) -> jax.Array:
    """(STEPS, 2), by gradient ascent."""
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, ITERATIONS))

    def improve(carry: Any, _: None) -> Any:
        free, state = carry
        gradient = jax.grad(lambda free: -rewards(start, goal, jnp.tanh(free))[0].sum())(free)
        change, state = optimizer.update(gradient, state)
        return (free + change, state), None

    free = jnp.zeros((STEPS, 2))
    return jnp.tanh(jax.lax.scan(improve, (free, optimizer.init(free)), length=ITERATIONS)[0][0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=0, help="train so many, and play them")
    asked = parser.parse_args()
    with rendered(dynamics="mjx") as src:
        import_project(src)
        from my_env.config import task
        from my_env.kit import load_policy, train, wrap_for_evaluation

        env = wrap_for_evaluation(task.environment(), STEPS)
        first = jax.jit(env.reset)(jax.random.split(jax.random.PRNGKey(0), STARTS))
        start, goal = first.pipeline_state.qpos, first.pipeline_state.mocap_pos[:, 0, :2]
        actions = jax.jit(jax.vmap(best_actions))(start, goal)
        found, positions = jax.vmap(rewards)(start, goal, actions)

        def play(policy: Any) -> tuple[np.ndarray, Any]:
            """Returns (STARTS,) and the last state, of the environment itself."""

            def step(state: Any, action: jax.Array) -> Any:
                chosen = action if policy is None else policy(state.obs, jax.random.PRNGKey(0))[0]
                state = env.step(state, chosen)
                return state, state.reward

            last, seen = jax.jit(lambda: jax.lax.scan(step, first, actions.swapaxes(0, 1)))()
            return np.asarray(seen.sum(0)), last

        returns, last = play(None)
        np.testing.assert_allclose(last.pipeline_state.qpos, positions[:, -1], atol=1e-3)
        np.testing.assert_allclose(returns, found.sum(1), atol=1e-2)
        print(f"best possible: {returns.mean():.2f} over {STARTS} starts")
        for seed in range(asked.seeds):
            with tempfile.TemporaryDirectory() as folder:
                settings = dataclasses.replace(task.settings, seed=seed)
                seeded = dataclasses.replace(task, settings=settings)
                run = train(seeded, name="task", run_dir=Path(folder) / "run")
                got, _ = play(load_policy(run, seeded))
                print(f"seed {seed}: {got.mean():.2f} on the same starts", flush=True)


if __name__ == "__main__":
    main()
