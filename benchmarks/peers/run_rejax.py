"""Trains seeds at once with rejax: run_rejax.py JSON. Needs rejax, gymnax==0.0.9 and six."""

import json
import sys

import jax
import rejax


def main() -> None:
    given = json.loads(sys.argv[1])
    algorithm = rejax.PPO.create(
        env="CartPole-v1" if given["task"] == "cartpole" else "Pendulum-v1",
        agent_kwargs={"activation": "swish", "hidden_layer_sizes": (64, 64)},
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
        # One evaluation of 128 episodes, at the end.
        eval_freq=given["num_timesteps"],
        skip_initial_evaluation=True,
    )
    keys = jax.random.split(jax.random.PRNGKey(given["seed"]), given["num_seeds"])
    state, (_, returns) = jax.block_until_ready(jax.jit(jax.vmap(algorithm.train))(keys))
    print(
        json.dumps(
            {
                "steps": int(state.global_step.max()),
                "gradient_steps": int(state.actor_ts.step.max()),
                "returns": returns[:, -1].mean(-1).tolist(),
            }
        )
    )


if __name__ == "__main__":
    main()
