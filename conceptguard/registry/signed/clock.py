"""What time it is, in one place: expiry is judged by it, and tests set it."""

from __future__ import annotations

from datetime import datetime, timezone

from conceptguard.errors import RegistryError

_FORM = "%Y-%m-%dT%H:%M:%SZ"


def now() -> datetime:
    """The time, in UTC, to the second."""
    return datetime.now(timezone.utc).replace(microsecond=0)


def written(moment: datetime) -> str:
    """A moment as TUF writes it: `2027-01-31T00:00:00Z`."""
    return moment.strftime(_FORM)


def moment(text: str) -> datetime:
    """The moment that such text, or a bare date, means. Raises RegistryError."""
    for form in (_FORM, "%Y-%m-%d"):
        try:
            return datetime.strptime(text, form).replace(tzinfo=timezone.utc)
        except ValueError:
            continue
    raise RegistryError(f"{text[:40]!r} is no date: write it as 2027-01-31")
