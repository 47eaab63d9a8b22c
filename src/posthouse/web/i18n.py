"""Which language a page is in, and how it writes dates."""

from datetime import UTC, datetime

from posthouse.locales import LANGUAGES, SOURCE, translations

COOKIE = "posthouse_language"


def choose(asked: str | None, remembered: str | None, accept: str) -> str:
    """By ?lang=, else by the cookie, else by Accept-Language (RFC 9110 section 12.5.4), else English."""
    wanted = (asked or "", remembered or "", *_accepted(accept[:500]))
    return next((language for language in wanted if language in LANGUAGES), SOURCE)


def _accepted(header: str) -> list[str]:
    """The languages of an Accept-Language header without their regions, the most wanted first."""
    weighted = [_weigh(part) for part in header.split(",")]
    return [language for weight, language in sorted(weighted, key=lambda pair: -pair[0]) if weight > 0]


def _weigh(part: str) -> tuple[float, str]:
    tag, _, quality = part.partition(";")
    language = tag.strip().partition("-")[0].lower()
    try:
        return (float(quality.partition("=")[2]) if quality else 1.0), language
    except ValueError:
        return 0.0, language


def moment(seconds: float, language: str) -> str:
    """A point in time as readers of the language write it, in the server's zone with its distance from UTC."""
    at = datetime.fromtimestamp(seconds).astimezone()
    # Translators: how a date with a time is written.
    pattern = translations(language).gettext("%(year)s-%(month)s-%(day)s %(hour)s:%(minute)s (UTC%(offset)s)")
    return pattern % {
        "year": at.year,
        "month": f"{at.month:02d}",
        "day": f"{at.day:02d}",
        "hour": f"{at.hour:02d}",
        "minute": f"{at.minute:02d}",
        "offset": f"{at:%z}"[:3] + ":" + f"{at:%z}"[3:5],
    }


def day(seconds: float, language: str) -> str:
    """The day in UTC that a point in time lies in, as readers of the language write it."""
    at = datetime.fromtimestamp(seconds, UTC)
    # Translators: how a date without a time is written.
    pattern = translations(language).gettext("%(year)s-%(month)s-%(day)s")
    return pattern % {"year": at.year, "month": f"{at.month:02d}", "day": f"{at.day:02d}"}


def machine_moment(seconds: float) -> str:
    """For the datetime attribute of a <time>."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")
