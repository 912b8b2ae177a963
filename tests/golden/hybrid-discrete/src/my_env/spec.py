"""What was answered when this project was made, as Python.

The template's: not for editing. `copier update --data action_size=...` changes an answer and
rewrites this file.
"""

from typing import Final

IMAGE_SHAPE = (32, 32, 3)  # height, width, channels
IMAGE_SIZE = 3072  # the image comes first in a flat observation
VECTOR_SIZE = 16  # the vector comes after it
OBSERVATION_SIZE = 3088
ACTIONS: Final = "discrete"
ACTION_SIZE = 4  # the number of choices

EPISODE_LENGTH = 100
