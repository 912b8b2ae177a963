"""PPO: settings, networks, state, algorithm. It reads no files and prints nothing."""
