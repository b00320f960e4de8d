"""weakspot finds the weak spot of an open-weight model's safeguard before an attacker does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["UserError", "__version__", "audit"]

if TYPE_CHECKING:
    from weakspot.errors import UserError
    from weakspot.search.audit import audit


def __getattr__(name: str) -> Any:
    """Import on first use: `import weakspot` and `weakspot --help` must not wait for torch and ray."""
    if name == "audit":
        from weakspot.search.audit import audit

        return audit
    if name == "UserError":
        from weakspot.errors import UserError

        return UserError
    raise AttributeError(f"module 'weakspot' has no attribute {name!r}")
