"""Hosts: what generates. One room per framework, and the only code that knows it; ``plugins.host_for`` finds them."""
