"""What was answered when this project was made, as Python.

The template's: not for editing. `copier update --data action_size=...` changes an answer and
rewrites this file.
"""

from typing import Final

VECTOR_SIZE = 2
OBSERVATION_SIZE = 2
ACTIONS: Final = "continuous"
ACTION_SIZE = 2

EPISODE_LENGTH = 100
