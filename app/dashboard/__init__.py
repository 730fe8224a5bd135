"""What the operator sees of a gateway at a glance: the figures behind `/dashboard`, and the page in `static`."""

from app.dashboard.reading import Dashboard

__all__ = ["Dashboard"]
