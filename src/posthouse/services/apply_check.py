"""Whether what a file wants fits together with what is stored; every problem is found before anything is written."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from posthouse.model.endpoint import parse_endpoint
from posthouse.problems import Problem, ProblemError
from posthouse.providers.applied import from_apply
from posthouse.providers.provider import PROTOCOLS, Provider, built_in, keeps_token
from posthouse.providers.registration import known_client
from posthouse.services.apply_credential import is_secret_id
from posthouse.services.apply_file import Item, Wanted
from posthouse.services.apply_stored import Stored, key_of, unflat
from posthouse.services.apply_values import SECRETS

SHORTEST_PASSWORD = 8
"""Of a device. A keypad is no pleasure, but a shorter one is guessed."""
Leaving = frozenset[tuple[str, str]]
"""Kind and key of everything that is about to be removed."""


def check(wanted: Wanted, stored: Stored, leaving: Leaving = frozenset()) -> list[Problem]:
    """What is wrong, in the order of the file, with what was wrong about the file itself."""
    checking = _Checking(wanted, stored, leaving)
    checking.everything()
    return sorted((*wanted.problems, *checking.problems), key=_line)


def _line(problem: Problem) -> int:
    line = problem.where.rpartition(":")[2]
    return int(line) if line.isascii() and line.isdigit() else 0


@dataclass(slots=True)
class _Checking:
    wanted: Wanted
    stored: Stored
    leaving: Leaving
    problems: list[Problem] = field(default_factory=list)
    final: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """What will be stored, by kind and key; what could not be understood is left out."""
    providers: dict[str, Provider] = field(default_factory=dict)
    faulty: set[str] = field(default_factory=set)
    """Providers of the file that make no sense."""

    def everything(self) -> None:
        self.final = {kind: self._final(kind) for kind in self.stored.rows}
        self._read_providers()
        for kind, one in (("app", self._app), ("mailbox", self._mailbox), ("device", self._device)):
            for item in self.wanted.of(kind):
                one(item, self.final[kind][key_of(kind, item.name)])
        for item in self.wanted.items:
            self._secret(item)
        self._one_default()
        self._still_used()

    def complain(self, id: str, item: Item, key: str, sentence: str, hint: str = "") -> None:
        where = self.wanted.where(item.line_of(key))
        self.problems.append(Problem(f"apply.{id}", sentence, hint, where))

    def _final(self, kind: str) -> dict[str, dict[str, Any]]:
        values = {key: self.stored.values(kind, key) for key in self.stored.rows[kind]}
        values = {key: value for key, value in values.items() if (kind, key) not in self.leaving}
        for item in self.wanted.of(kind):
            key = key_of(kind, item.name)
            values[key] = item.over(values.get(key, {}))
        return values

    def _read_providers(self) -> None:
        self.providers = dict(built_in())
        ours = {item.name: item for item in self.wanted.of("provider")}
        for name, values in self.final["provider"].items():
            try:
                self.providers[name] = from_apply(unflat(name, values), "")
            except ProblemError as error:
                self._take(ours.get(name), error.problems)
                self.faulty.add(name)
        for item in ours.values():
            ca_file = item.values.get("ca_file")
            if isinstance(ca_file, str) and ca_file and not Path(ca_file).is_file():
                self.complain("no-file", item, "ca_file", f"There is no file {ca_file}.")

    def _take(self, item: Item | None, problems: Iterable[Problem]) -> None:
        for found in problems:
            line = item.line_of(found.where.removeprefix(".")) if item else 0
            self.problems.append(Problem(found.id, found.sentence, found.hint, self.wanted.where(line)))

    def _app(self, item: Item, values: dict[str, Any]) -> None:
        for key in ("provider", "client_id"):
            if key not in values and key not in item.lines:
                self.complain("missing", item, key, f"The app {item.name} has no {key}.")
        name = values.get("provider")
        if name is None or name in self.faulty:
            return
        provider = self.providers.get(name)
        if provider is None:
            self.complain("unknown-name", item, "provider", f"There is no provider {name}.", self._known_providers())
        elif provider.family == "microsoft" and is_secret_id(item.secret):
            hint = "Copy the secret's Value; it is shown once, right after it was made. Else make a new one."
            sentence = "This is the ID of a client secret, not the secret."
            self.complain("secret-id", item, "client_secret", sentence, hint)
        elif not provider.has_oauth:
            hint = "Its mailboxes need no app, only a password."
            self.complain("no-sign-in", item, "provider", f"{name} offers no OAuth sign-in.", hint)
        elif item.secret is not None and (known := known_client(provider, values.get("client_id", ""))):
            sentence = f"The app registration of {known.title} is public: it has no secret."
            self.complain(
                "known-client", item, "client_secret", sentence, "Leave it out, or name a client_id of yours."
            )

    def _known_providers(self) -> str:
        return f"Known: {', '.join(sorted(self.providers))}."

    def _mailbox(self, item: Item, values: dict[str, Any]) -> None:
        app, has_password = values.get("app", ""), self._has_password(item)
        if app and app not in self.final["app"]:
            self.complain("unknown-name", item, "app", f"There is no app {app}.", "Add an [[app]] with this name.")
            return
        if not app and not has_password and ("app" not in item.lines or "app" in item.values):
            hint = "Name the app it signs in with, or give its password."
            self.complain("missing", item, "address", f"{item.name} has neither app nor password.", hint)
            return
        if not app and "signs_in_as" in item.values and item.values["signs_in_as"] != item.name:
            hint = "Write smtp_user, imap_user or pop3_user for the name that belongs to the password."
            self.complain("no-app", item, "signs_in_as", "signs_in_as is for mailboxes with an app.", hint)
        self._servers(item, values, self._provider_of(app))

    def _provider_of(self, app: str) -> Provider | None:
        """None where there is no app, or its provider makes no sense, which has been said already."""
        return self.providers.get(self.final["app"].get(app, {}).get("provider", ""))

    def _servers(self, item: Item, values: dict[str, Any], provider: Provider | None) -> None:
        if values.get("app") and provider is None:
            return
        used = [protocol for protocol in PROTOCOLS if _uses(values, protocol)]
        for protocol in used:
            from_provider = provider is not None and provider.endpoint(protocol) is not None
            if not values.get(protocol) and not from_provider and protocol not in item.lines:
                hint = f'Give {protocol} = "HOST:PORT tls"' + (", or send = false." if protocol == "smtp" else ".")
                self.complain("no-server", item, "receive" if protocol != "smtp" else "address",
                              f"{item.name} has no {protocol} server.", hint)  # fmt: skip
            if provider is not None and item.values.get(protocol) and not self._has_password(item):
                self._own_server(item, protocol, provider)

    def _has_password(self, item: Item) -> bool:
        return "password" in item.lines or self.stored.has_secret(item)

    def _own_server(self, item: Item, protocol: str, provider: Provider) -> None:
        """A server that is none of the provider's would get a token that it could use there."""
        server = parse_endpoint(item.values[protocol])
        if not keeps_token(provider, server):
            sentence = f"{server} is no server of {provider.title or provider.name} that a token may be sent to."
            hint = f"Leave {protocol} out, or give the server to the provider, with TLS."
            self.complain("foreign-server", item, protocol, sentence, hint)

    def _device(self, item: Item, values: dict[str, Any]) -> None:
        if not values.get("mailboxes") and "mailboxes" not in item.values and "mailboxes" in item.lines:
            return
        if not values.get("mailboxes"):
            self.complain("missing", item, "mailboxes", f"The device {item.name} has no mailboxes.")
        for address in item.values.get("mailboxes", ()):
            if address not in self.final["mailbox"] and not self._will_be(address):
                self.complain("unknown-name", item, "mailboxes", f"There is no mailbox {address}.")
        self._password(item)
        self._lane(item, values)

    def _password(self, item: Item) -> None:
        if item.secret is not None and len(item.secret.reveal()) < SHORTEST_PASSWORD:
            sentence = f"The password of device {item.name} is shorter than {SHORTEST_PASSWORD} characters."
            hint = "Choose a longer one, or leave it out: then one is made and shown."
            self.complain("short-password", item, "password", sentence, hint)

    def _will_be(self, address: str) -> bool:
        return ("mailbox", address) in self.leaving

    def _lane(self, item: Item, values: dict[str, Any]) -> None:
        if values.get("lane") != "open":
            return
        networks = values.get("networks", [])
        if not networks and not ("networks" in item.lines and "networks" not in item.values):
            hint = 'Add networks = ["192.168.1.20"], the addresses it may come from.'
            self.complain("unfenced", item, "lane", "An open lane without networks would let everybody send.", hint)
        if any(ip_network(network).prefixlen == 0 for network in networks):
            hint = "Name the network the device is in."
            self.complain("unfenced", item, "networks", "An open lane may not be open to every network.", hint)

    def _secret(self, item: Item) -> None:
        if item.missing and not self.stored.has_secret(item):
            key = SECRETS[item.kind]
            sentence = f"There is no {key} for {item.name}: {item.missing}."
            self.complain("no-secret", item, key, sentence, "None is stored that could be kept.")

    def _one_default(self) -> None:
        defaults = [item for item in self.wanted.of("mailbox") if item.values.get("default")]
        for item in defaults[1:]:
            sentence = f"{item.name} cannot be the default mailbox as well as {defaults[0].name}."
            self.complain("two-defaults", item, "default", sentence, "Only one can be.")

    def _still_used(self) -> None:
        users = {"provider": ("app", "provider"), "app": ("mailbox", "app"), "mailbox": ("device", "mailboxes")}
        for kind, key in sorted(self.leaving):
            for user_kind, user, values in self._rows(*users.get(kind, ("", ""))):
                if key == values or (isinstance(values, list) and key in values):
                    self._refuse_removal(kind, key, user_kind, user)

    def _rows(self, kind: str, key: str) -> list[tuple[str, str, Any]]:
        return [(kind, name, values.get(key)) for name, values in self.final.get(kind, {}).items()]

    def _refuse_removal(self, kind: str, key: str, user_kind: str, user: str) -> None:
        if kind == "provider" and key in built_in():
            return
        named = getattr(self.stored.find(user_kind, user), "name", user)
        sentence = f"The {kind} {key} cannot be removed: the {user_kind} {named} still uses it."
        hint = f"Change or remove the {user_kind} first."
        self.problems.append(Problem("apply.in-use", sentence, hint, self.wanted.where(0)))


def _uses(values: dict[str, Any], protocol: str) -> bool:
    return bool(values.get("send", True)) if protocol == "smtp" else values.get("receive") == protocol
