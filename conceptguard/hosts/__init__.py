"""Hosts: what generates. One room per framework, and the only code that knows it. A method asks ``self.host``."""
