"""Find the fastest way to run a member on this machine."""
