"""Forms that make and change what is served: fields to show, and a form that came back as the table of an apply file.

Names of fields are the keys of apply files where they can be; a server is three fields, since that is how guides and
devices name it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from posthouse.model.endpoint import Endpoint, parse_endpoint

Values = Mapping[str, str]
Kind = Literal["text", "secret", "long", "lines", "choice", "flag", "date", "number"]
ON = "on"


def N_(sentence: str) -> str:  # noqa: N802 - gettext's own name for "to be translated later"
    return sentence


ORDERED = N_("A message that is delayed holds all later ones back.")


@dataclass(frozen=True, slots=True)
class Field:
    """`label` and `hint` are sentences of the page, `choices` pairs of a word and what is read for it.

    `keys`: problems with these keys of the table are told here; the field's own name is one of them.
    `set_to`: what the provider has set for good; `unused` is then the value that is kept in its place. Else `unused` is
    said beside a field that can be filled in and has no effect at the moment. `redraws`: ids of the parts of
    the page that depend on what is chosen here.
    """

    name: str
    label: str
    kind: Kind = "text"
    hint: str = ""
    choices: Sequence[tuple[str, str]] = ()
    placeholder: str = ""
    keys: tuple[str, ...] = ()
    needed: bool = False
    set_to: str = ""
    unused: str = ""
    redraws: tuple[str, ...] = ()

    def concerns(self, key: str) -> bool:
        return key == self.name or key in self.keys


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    fields: Sequence[Field]
    hint: str = ""
    folded: bool = False

    def without(self, *names: str) -> "Section":
        return replace(self, fields=[field for field in self.fields if field.name not in names])


# From a form


def texts(form: Values, *names: str) -> dict[str, Any]:
    return {name: form[name].strip() for name in names if name in form}


def lines(form: Values, *names: str) -> dict[str, Any]:
    """One item on each line; commas do as well."""
    return {name: listed(form[name]) for name in names if name in form}


def listed(text: str) -> list[str]:
    return [item.strip() for item in text.replace(",", "\n").splitlines() if item.strip()]


def flags(form: Values, *names: str) -> dict[str, Any]:
    """A box that is not ticked is not sent."""
    return {name: form.get(name) == ON for name in names}


def secrets(form: Values, *names: str) -> dict[str, Any]:
    """What was left empty is kept as it is."""
    return {name: form[name] for name in names if form.get(name)}


def seconds(form: Values, *names: str) -> dict[str, Any]:
    """What is left empty is the default again."""
    return {name: f"{form[name].strip()}s" if form[name].strip() else None for name in names if name in form}


def endpoint(form: Values, prefix: str, key: str) -> dict[str, Any]:
    """HOST:PORT and how TLS begins, out of three fields; empty where none is filled in, no key where none is there."""
    if f"{prefix}_host" not in form:
        return {}
    host, port, tls = (form.get(f"{prefix}_{part}", "").strip() for part in ("host", "port", "tls"))
    written = f"[{host}]" if ":" in host else host
    port = port or (_usual_port(key, tls) if host else "")
    return {key: f"{written}:{port} {tls}".strip() if port else ""}


def _usual_port(protocol: str, tls: str) -> str:
    """RFC 8314 section 7.3, RFC 6409."""
    with_tls, without = {"smtp": ("465", "587"), "imap": ("993", "143"), "pop3": ("995", "110")}[protocol]
    return with_tls if tls == "tls" or (not tls and protocol != "smtp") else without


# To a form


def joined(items: Iterable[str]) -> str:
    return "\n".join(items)


def ticked(flag: bool) -> str:
    return ON if flag else ""


def server_values(prefix: str, written: str) -> dict[str, str]:
    """What `endpoint` reads, for a server as it is stored."""
    place = parse_endpoint(written) if written else None
    values = (place.host, str(place.port), place.tls) if place else ("", "", "")
    return dict(zip((f"{prefix}_host", f"{prefix}_port", f"{prefix}_tls"), values, strict=True))


def server_fields(
    prefix: str, keys: tuple[str, ...], usual: Endpoint | None, *, fixed: bool = False, kept: str = ""
) -> list[Field]:
    """Server, port and SSL/TLS. `usual` is what the provider has; empty fields mean that, and `fixed` ones always,
    whatever is `kept` in their place."""
    host, port = (usual.host, str(usual.port)) if usual else ("", "")
    set_host, set_port, set_tls = (host, port, _SPOKEN[usual.tls]) if usual and fixed else ("", "", "")
    left = N_("as the provider has it") if usual else N_("as is usual for the port")
    modes = [("", left), ("starttls", "STARTTLS"), ("tls", "SSL/TLS"), ("plain", N_("no encryption"))]
    label = N_("Primary server") if prefix == "smtp" else N_("Server")
    return [
        Field(f"{prefix}_host", label, placeholder=host, keys=keys, set_to=set_host, unused=kept if fixed else ""),
        Field(f"{prefix}_port", N_("Port number"), "number", placeholder=port, set_to=set_port),
        Field(f"{prefix}_tls", "SSL/TLS", "choice", choices=modes, set_to=set_tls),
    ]


_SPOKEN = {"starttls": "STARTTLS", "tls": "SSL/TLS", "plain": N_("no encryption")}
