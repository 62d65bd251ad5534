"""Durations and amounts of money as people read them."""

from __future__ import annotations

from datetime import timedelta

_MINUTE_S = 60
_HOUR_S = 3600
_DAY_S = 86400


def duration(seconds: float) -> str:
    """Return how long something took: `0.8 s`, `42 s`, `3 min 05 s`, `2 h 04 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _MINUTE_S:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def rounded_duration(time: float | timedelta) -> str:
    """Return an age, a timeout or the time that is left, as one number: `90 s`, `3 min`, `5 h`,
    `12 d`.

    A number is in seconds. A negative time counts as zero.
    """
    seconds = time.total_seconds() if isinstance(time, timedelta) else time
    whole = max(0, round(seconds))
    if whole < 2 * _MINUTE_S:
        return f"{whole} s"
    minutes = round(whole / _MINUTE_S)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if whole < 2 * _DAY_S else f"{minutes // (24 * 60)} d"


def duration_range(low: float, high: float) -> str:
    """Return a range of seconds: `40 to 70 s`, `25 to 40 min`, `1.5 to 2.5 h`."""
    if high < 100:
        unit, ends = "s", (f"{low:.0f}", f"{high:.0f}")
    elif high < 2 * _HOUR_S:
        unit = "min"
        ends = (f"{max(low / _MINUTE_S, 1):.0f}", f"{max(high / _MINUTE_S, 1):.0f}")
    else:
        unit, ends = "h", (f"{low / _HOUR_S:.1f}", f"{high / _HOUR_S:.1f}")
    return f"{' to '.join(dict.fromkeys(ends))} {unit}"


def duration_about(seconds: float) -> str:
    """Return a duration that is not known exactly: `40 s`, `4 min`, `1.5 h`."""
    if seconds < 100:
        return f"{max(seconds, 1) if seconds < 10 else round(seconds, -1):.0f} s"
    if seconds < 2 * _HOUR_S:
        return f"{seconds / _MINUTE_S:.0f} min"
    return f"{seconds / _HOUR_S:.1f} h"


def rate(usd: float) -> str:
    """Return a price per hour: `0.526`, `0.1578`, `32.77`.

    It has up to four decimals below 10 USD, because spot prices differ in the fourth one.
    """
    text = f"{usd:.4f}" if usd < 10 else f"{usd:.2f}"
    whole, _, decimals = text.partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')}"


def money(usd: float) -> str:
    """Return an amount in dollars and cents: `1.05`; `<0.01` if it is less than a cent."""
    return "<0.01" if 0 < usd < 0.01 else f"{usd:.2f}"


def money_if_known(usd: float | None) -> str:
    """Return an amount in dollars and cents, or `?` if it is not known."""
    return "?" if usd is None else money(usd)


def money_range(low: float, high: float) -> str:
    """Return a range of amounts: `$0.22 to $0.35`, `up to $0.02`, `less than $0.01`."""
    if high == 0:
        return "nothing ($0)"
    if high < 0.01:
        return "less than $0.01"
    if low < 0.005:
        return f"up to ${high:.2f}"
    return " to ".join(dict.fromkeys((f"${low:.2f}", f"${high:.2f}")))
