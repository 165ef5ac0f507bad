"""How the embedded classifiers are trained."""

from conceptguard.making.fit import Recipe

RECIPES = {"resnet": Recipe(24, 4e-3), "vit": Recipe(80, 2e-3)}
