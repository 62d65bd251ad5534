"""Tell if an operating system still receives security updates."""

from __future__ import annotations

from datetime import date

from bake.catalog import OsImage
from bake.errors import Finding


def check_support(os_image: OsImage, today: date) -> list[Finding]:
    """Return a warning if the operating system gets no security updates any more. Pure."""
    if today <= os_image.security_until:
        return []
    message = f"{os_image.key} has received no security updates since {os_image.security_until}"
    hint = (
        "Known security holes stay open in the image: use a newer base where the versions allow it"
    )
    if os_image.pro_until and today <= os_image.pro_until:
        hint += (
            f". Ubuntu Pro has updates until {os_image.pro_until}: "
            "run `sudo pro attach` on each machine (ubuntu.com/pro)"
        )
    return [Finding("base", message, hint)]
