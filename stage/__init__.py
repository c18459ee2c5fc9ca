"""What every stage begins with: options, a session, the environment."""
