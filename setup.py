"""Which folders become which packages; all else stands in pyproject.toml.

Four folders of the checkout get import names that say whose they are. setuptools' own discovery cannot rename, and a
list by hand forgets: every folder below them is a package, and every file that is not hidden goes along.
"""

from pathlib import Path

from setuptools import setup

ROOTS = {
    "conceptguard": "conceptguard",
    "conceptguard_plugins": "plugins",
    "conceptguard_nodes": "nodes",
    "conceptguard_registry": "registry",
}
# These models travel in a distribution of their own; conceptguard.registry.places has the same names for who asks.
APART = sorted(link.name for link in Path("conceptguard-models/conceptguard_registry/models").glob("*"))


def packages(name: str, folder: str) -> list[str]:
    """The import names of a folder and of all folders below it; one whose name is no word can hold data only."""
    below = [path.relative_to(folder).parts for path in Path(folder).rglob("*") if path.is_dir()]
    return [name, *(".".join([name, *parts]) for parts in sorted(below) if all(map(str.isidentifier, parts)))]


setup(
    package_dir=ROOTS,
    packages=[package for root in ROOTS.items() for package in packages(*root) if "__pycache__" not in package],
    package_data={name: ["**/*"] for name in ROOTS},
    exclude_package_data={
        "": ["*.py[co]", "**/__pycache__/*"],
        "conceptguard_registry": [f"models/{name}/*" for name in APART],
    },
)
