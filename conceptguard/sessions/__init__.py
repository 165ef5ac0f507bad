"""One policy at work on one host. Internal: no plugin imports from here."""
