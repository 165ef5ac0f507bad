import typer


def register(app: typer.Typer) -> None:
    """Put the command on the program."""
