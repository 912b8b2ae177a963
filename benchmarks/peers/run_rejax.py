"""Trains seeds at once with rejax: run_rejax.py JSON. Needs rejax, gymnax==0.0.9 and six.

With "watch" it prints one JSON line for each evaluation; else it evaluates at the end.
"""

import json
import sys
import time

import jax
import jax.numpy as jnp
import rejax
from rejax.evaluate import evaluate

IDS = {
    "cartpole": "CartPole-v1",
    "pendulum": "Pendulum-v1",
    "acrobot": "Acrobot-v1",
    "breakout": "Breakout-MinAtar",
}


def main() -> None:
    given = json.loads(sys.argv[1])
    watch = given.get("watch", False)
    algorithm = rejax.PPO.create(
        env=IDS[given["task"]],
        agent_kwargs={"activation": "swish", "hidden_layer_sizes": tuple(given["layers"])},
        num_envs=given["num_envs"],
        num_steps=given["unroll_length"],
        total_timesteps=given["num_timesteps"],
        num_epochs=given["num_updates_per_batch"],
        num_minibatches=given["num_minibatches"],
        learning_rate=given["learning_rate"],
        gamma=given["discounting"],
        gae_lambda=given["gae_lambda"],
        clip_eps=given["clipping_epsilon"],
        ent_coef=given["entropy_cost"],
        vf_coef=0.5,
        max_grad_norm=given["max_grad_norm"],
        normalize_observations=given["normalize_observations"],
        normalize_rewards=given["normalize_observations"],  # as purejaxrl does
        reward_normalization_discount=given["discounting"],
        # By itself rejax evaluates 128 episodes each time.
        eval_freq=given["evaluate_every"] if watch else given["num_timesteps"],
        skip_initial_evaluation=True,
    )
    if watch:

        def report(steps, value) -> None:
            row = {"steps": int(steps), "eval/episode_reward": float(value)}
            print(json.dumps(row), flush=True)

        def evaluated(algorithm, state, key):
            act, params = algorithm.make_act(state), algorithm.env_params
            limit, count = params.max_steps_in_episode, given["episodes"]
            lengths, returns = evaluate(act, key, algorithm.env, params, count, limit)
            jax.debug.callback(report, state.global_step, returns.mean())
            return lengths, returns

        algorithm = algorithm.replace(eval_callback=evaluated)
    keys = jax.random.split(jax.random.PRNGKey(given["seed"]), given["num_seeds"])
    train = jax.vmap(algorithm.train) if given["num_seeds"] > 1 else one(algorithm.train)
    train = jax.jit(train).lower(keys).compile()
    start = time.perf_counter()
    state, (_, returns) = jax.block_until_ready(train(keys))
    steps = int(state.global_step.max())
    print(
        json.dumps(
            {
                "steps": steps,
                "training/sps": steps * given["num_seeds"] / (time.perf_counter() - start),
                "gradient_steps": int(state.actor_ts.step.max()),
                "returns": returns[:, -1].mean(-1).tolist(),
            }
        )
    )


def one(train):
    """`train` for a single seed, without vmap, which would compute both branches of a condition."""
    return lambda keys: jax.tree.map(lambda x: jnp.asarray(x)[None], train(keys[0]))


if __name__ == "__main__":
    main()
