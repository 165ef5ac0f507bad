"""What the tests of clarifying questions ask about."""

WINE = {"name": "wine", "prompts": ["wine", "a glass of wine", "a wine glass"]}
WORDS = {"glass": {"a glass of wine": ["wine", "red"], "a glass of milk": ["milk"], "a window": ["house", "pane"]}}
