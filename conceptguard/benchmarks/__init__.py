"""What ``conceptguard bench`` times: one module a command, and what they have in common. Internal."""
