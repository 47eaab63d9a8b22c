"""The sandbox's few pages. No script, no picture, nothing from elsewhere."""

from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from starlette.responses import HTMLResponse, Response

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}
BASE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }} – Posthouse sandbox</title>
<style>
:root { color-scheme: light dark; font: 1.1rem/1.5 system-ui, sans-serif }
body { max-width: 32rem; margin: 10vh auto; padding: 0 1rem }
form, ul { display: grid; gap: .6rem; padding: 0; margin: 1.5rem 0; list-style: none }
button, input { font: inherit; padding: .7rem 1rem; border: 1px solid; border-radius: .5rem; text-align: start }
button small { display: block; opacity: .75 }
footer { margin-top: 3rem; font-size: .85rem; opacity: .75 }
</style>
<main>
<h1>{{ title }}</h1>
{% block body %}{% endblock %}
</main>
<footer>This is the Posthouse sandbox, a provider for trying out. Nobody here is real and no mail leaves this
computer.</footer>
</html>
"""
PEOPLE = """{% for person in people %}
<button name="person" value="{{ person.address }}"{% if loop.first %} autofocus{% endif %}>
{{ person.name or person.address }}<small>{{ person.username }}</small></button>
{% endfor %}
<button name="person" value="">No, do not allow</button>
"""
TEMPLATES = {
    "base": BASE,
    "people": PEOPLE,
    "choose": """{% extends "base" %}{% block body %}
<p><strong>{{ client }}</strong> asks for: {{ scopes | join(", ") }}.</p>
<p>Choose who signs in and allows it.</p>
<form method="post">{% include "people" %}</form>
{% endblock %}""",
    "code": """{% extends "base" %}{% block body %}
{% if wrong %}<p role="alert">No device waits under the code {{ wrong }}. Please check it.</p>{% endif %}
<form method="get">
<label for="user_code">Enter the code that your device shows.</label>
<input id="user_code" name="user_code" autocomplete="off" autocapitalize="characters" required autofocus>
<button>Next</button>
</form>
{% endblock %}""",
    "device": """{% extends "base" %}{% block body %}
<p><strong>{{ client }}</strong> waits with the code <strong>{{ user_code }}</strong> and asks for:
{{ scopes | join(", ") }}.</p>
<p>Choose who signs in and allows it.</p>
<form method="post" action="/device"><input type="hidden" name="user_code" value="{{ user_code }}">
{% include "people" %}</form>
{% endblock %}""",
    "said": """{% extends "base" %}{% block body %}<p role="status">{{ sentence }}</p>{% endblock %}""",
    "home": """{% extends "base" %}{% block body %}
<p>Sign-in, SMTP, IMAP and POP3 for trying out.</p>
<h2>Addresses</h2>
<ul>{% for name, address in addresses %}<li>{{ name }}: <code>{{ address }}</code></li>{% endfor %}</ul>
<h2>People</h2>
<ul>{% for address, count in mailboxes %}<li>{{ address }}: {{ count }} messages</li>{% endfor %}</ul>
<p><a href="/device">Enter a device code</a></p>
{% endblock %}""",
}
_pages = Environment(loader=DictLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)


def page(template: str, title: str, status: int = 200, **values: Any) -> Response:
    return HTMLResponse(_pages.get_template(template).render(title=title, **values), status, HEADERS)


def said(title: str, sentence: str, status: int = 200) -> Response:
    """A page that only says something."""
    return page("said", title, status, sentence=sentence)
