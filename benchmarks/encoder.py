"""The emitted encoder beside plain convolutions: PPO steps/s of the hybrid skeleton.

    python benchmarks/encoder.py [--repeats 3]

Both train the same project with the same settings; only the encoder differs. The plain one is two
3x3 convolutions with 16 and 32 features, each followed by 2x2 max-pooling through a reshape (the
fastest way to pool on a CPU), and a dense layer; `max_pool` itself did not finish at all there.
"""

import argparse
import dataclasses
import time

import project


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with project.rendered("hybrid") as src:
        project.import_project(src)
        import jax
        import jax.numpy as jnp
        import numpy as np
        from flax import linen as nn
        from my_env.config import task
        from my_env.encoder import HybridEncoder, split_observation
        from my_env.env import MyEnv
        from my_env.kit import make_network_factory

        class PlainEncoder(nn.Module):
            @nn.compact
            def __call__(self, observation, normalized):
                image, _ = split_observation(observation)
                _, vector = split_observation(normalized)
                for features in (16, 32):
                    image = nn.swish(nn.Conv(features, (3, 3))(image))
                    *lead, height, width, channels = image.shape
                    image = image.reshape(*lead, height // 2, 2, width // 2, 2, channels)
                    image = image.max((-4, -2))
                seen = nn.swish(nn.Dense(64)(image.reshape(*image.shape[:-3], -1)))
                return jnp.concatenate([seen, nn.swish(nn.Dense(64)(vector))], -1)

        def speed(encoder, updates: int) -> float:
            # One minibatch of the usual size, not 16: as much work for each step, sooner done.
            settings = dataclasses.replace(task.settings, num_minibatches=1)
            factory = make_network_factory(MyEnv.action_space, encoder=encoder)
            ppo = dataclasses.replace(task, settings=settings, network_factory=factory).make_ppo()
            state = jax.jit(ppo.init)(np.uint32(0))
            update = jax.jit(ppo.update).lower(state).compile()
            start = time.perf_counter()
            for _ in range(updates):
                state, _ = update(state)
            jax.block_until_ready(state)
            return updates * settings.steps_per_update / (time.perf_counter() - start)

        print(f"{jax.devices()[0].device_kind}, JAX {jax.__version__}")
        print("| emitted, steps/s | plain, steps/s | ratio |\n| ---: | ---: | ---: |", flush=True)
        for _ in range(arguments.repeats):
            ours, plain = speed(HybridEncoder(), 40), speed(PlainEncoder(), 1)
            print(f"| {ours:,.0f} | {plain:,.1f} | {ours / plain:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
