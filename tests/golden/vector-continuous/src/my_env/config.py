"""What is trained, and how. Yours: `copier update` never touches this file.

The settings are flags of `train` too; `train --help` describes them all. A second task is a second
value beside `task`, and `train wide` trains this one:

    import dataclasses
    import functools

    wide = dataclasses.replace(
        task, environment=functools.partial(MyEnv, arena=4.0)
    )
"""

from .env import MyEnv
from .kit import PPOConfig, Task, make_network_factory

task = Task(
    environment=MyEnv,
    settings=PPOConfig(
        episode_length=100,
        num_timesteps=200_000,
    ),
    network_factory=make_network_factory(
        MyEnv.action_space,
    ),
)
