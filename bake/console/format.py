"""TODO docstring."""

from __future__ import annotations

from datetime import timedelta


def in_short(time: timedelta) -> str:
    """`3 min`, `5 h`, `12 d`: one number is enough for what lives for weeks."""
    minutes = max(0, round(time.total_seconds() / 60))
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // (24 * 60)} d"


def duration(seconds: float) -> str:
    """`0.8 s`, `42 s`, `3 min 05 s`, `2 h 04 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def rate(usd: float) -> str:
    """To a hundredth of a cent, which is what spot prices differ by; from 10 USD on to a cent."""
    text = f"{usd:.4f}" if usd < 10 else f"{usd:.2f}"
    whole, _, cents = text.partition(".")
    return f"{whole}.{cents.rstrip('0').ljust(2, '0')}"


def money(usd: float) -> str:
    """To a cent; what is less than one, but not nothing, is said to be."""
    return "<0.01" if 0 < usd < 0.01 else f"{usd:.2f}"


HOUR = 3600.0


def span(low: float, high: float) -> str:
    """Seconds as `40 to 70 s`, `25 to 40 min`, `1.5 to 2.5 h`."""
    if high < 100:
        unit, ends = "s", (f"{low:.0f}", f"{high:.0f}")
    elif high < 2 * HOUR:
        unit, ends = "min", (f"{max(low / 60, 1):.0f}", f"{max(high / 60, 1):.0f}")
    else:
        unit, ends = "h", (f"{low / HOUR:.1f}", f"{high / HOUR:.1f}")
    return f"{' to '.join(dict.fromkeys(ends))} {unit}"
