"""The environment's side: actions, wrappers, episodes."""
