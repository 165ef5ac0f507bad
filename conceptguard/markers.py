"""How a plugin marks what it implements."""

from __future__ import annotations

import pluggy

hookspec = pluggy.HookspecMarker("conceptguard")
hookimpl = pluggy.HookimplMarker("conceptguard")
