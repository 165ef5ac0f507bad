"""Red team for language: what a guarded model can be made to tell, counted by the facts themselves."""
