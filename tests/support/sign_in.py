"""A person in front of the provider's pages: reads a page, fills in its form, goes on."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import httpx2

STEPS = 12
REFUSALS = ("refuse", "abort")


@dataclass(slots=True)
class Form:
    """The first form of a page: where it goes, what it says, and what pressing each button adds."""

    action: str
    fields: dict[str, str] = field(default_factory=dict)
    buttons: list[tuple[str, str]] = field(default_factory=list)

    def filled(self, person: str, *, permit: bool) -> dict[str, str]:
        """What a person sends who signs in as `person` and presses the button to permit or to refuse."""
        answer = {name: person if name == "login" else value for name, value in self.fields.items()}
        pressed = [pair for pair in self.buttons if is_refusal(pair) != permit]
        return answer | dict(pressed[:1])


def is_refusal(button: tuple[str, str]) -> bool:
    return any(word in REFUSALS for word in button)


class Page(HTMLParser):
    """Finds the first form of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.form: Form | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        about = {name: value or "" for name, value in attributes}
        if tag == "form" and self.form is None:
            self.form = Form(about.get("action", ""))
        elif self.form and about.get("name"):
            pair = (about["name"], about.get("value", ""))
            if tag == "button" or about.get("type") == "submit":
                self.form.buttons.append(pair)
            elif tag == "input":
                self.form.fields[pair[0]] = pair[1]


async def walk(browser: httpx2.AsyncClient, url: str, person: str, *, permit: bool, home: str) -> httpx2.Response:
    """Follow redirects and forms from `url` until there is nothing left to fill in, or `home` is left."""
    answer = await browser.get(url)
    for _ in range(STEPS):
        if location := answer.headers.get("location"):
            target = urljoin(str(answer.url), location)
            if urlsplit(target).netloc != home:
                return answer
            answer = await browser.get(target)
        elif form := Page(answer.text).form:
            target = urljoin(str(answer.url), form.action)
            answer = await browser.post(target, data=form.filled(person, permit=permit))
        else:
            return answer
    raise AssertionError(f"still not at the end after {STEPS} pages; now at {answer.url}")


async def sign_in(url: str, person: str, *, permit: bool = True) -> str:
    """Sign in at an authorization URL; the callback URL that the provider sends the browser to (not fetched).

    Raises AssertionError with the provider's page when it shows one instead of going back.
    """
    async with httpx2.AsyncClient(follow_redirects=False, timeout=10) as browser:
        answer = await walk(browser, url, person, permit=permit, home=urlsplit(url).netloc)
    location = answer.headers.get("location")
    assert location, f"the provider did not go back: {answer.status_code} {answer.text[:2000]}"
    return str(location)


async def approve_device(url: str, person: str, *, permit: bool = True) -> None:
    """Open a device's verification_uri_complete, sign in, and permit or refuse."""
    async with httpx2.AsyncClient(follow_redirects=False, timeout=10) as browser:
        answer = await walk(browser, url, person, permit=permit, home=urlsplit(url).netloc)
    assert not permit or "Signed in" in answer.text, f"{answer.status_code} {answer.text[:2000]}"
