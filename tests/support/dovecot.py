"""A private Dovecot: IMAP, POP3 and LMTP; passwords, and tokens by introspection at the tests' provider."""

import contextlib
import os
import pwd
import re
import shutil
import smtplib
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from string import Template

from tests.support.certificates import Certificates
from tests.support.needs import program
from tests.support.oidc import MAIL_SERVER, Provider
from tests.support.processes import (
    Running,
    answers,
    free_ports,
    kept_running,
    private_directory,
    start,
    until_ready,
)

PEOPLE = ("alice", "bob", "carol", "support")
PASSWORD = "password-of-the-tests"
CONFIGURATION = Template("""\
protocols = imap pop3 lmtp
listen = 127.0.0.1
base_dir = $home/run
state_dir = $home/state
log_path = $home/dovecot.log
instance_name = $home
default_internal_user = $internal
default_internal_group = $internal_group
default_login_user = $login
ssl = yes
ssl_cert = <$chain
ssl_key = <$key
auth_mechanisms = plain login xoauth2 oauthbearer
auth_verbose = yes
auth_failure_delay = 0
auth_cache_size = 0
first_valid_uid = 1
first_valid_gid = 1
mail_location = maildir:~/Maildir
mailbox_list_index = no
mail_max_userip_connections = 200
login_trusted_networks =
passdb {
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = $home/oauth2.conf
}
passdb {
  driver = passwd-file
  mechanisms = plain login
  args = username_format=%Lu $home/passwords
}
userdb {
  driver = passwd-file
  args = username_format=%Lu $home/passwords
}
namespace inbox {
  inbox = yes
  separator = /
}
service imap-login {
  chroot =
  service_count = 0
  process_min_avail = 1
  inet_listener imap {
    port = $imap
  }
  inet_listener imaps {
    port = $imaps
    ssl = yes
  }
}
service pop3-login {
  chroot =
  service_count = 0
  process_min_avail = 1
  inet_listener pop3 {
    port = $pop3
  }
  inet_listener pop3s {
    port = $pop3s
    ssl = yes
  }
}
service lmtp {
  process_min_avail = 1
  unix_listener $home/lmtp {
    mode = 0666
  }
}
service auth {
  unix_listener $home/auth {
    mode = 0666
  }
}
service anvil {
  chroot =
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service stats {
  chroot =
}
""")
OAUTH2 = Template("""\
introspection_mode = post
introspection_url = $introspection
force_introspection = yes
username_attribute = username
active_attribute = active
active_value = true
scope = mail
max_parallel_connections = 20
""")


@dataclass(frozen=True, slots=True)
class Server:
    """Ports on 127.0.0.1, Unix sockets for a mail server beside it, and what stands in the Maildirs."""

    home: Path
    authority: Path
    imap: int
    imaps: int
    pop3: int
    pop3s: int
    host: str = "localhost"

    @property
    def log(self) -> Path:
        return self.home / "dovecot.log"

    @property
    def lmtp_socket(self) -> Path:
        return self.home / "lmtp"

    @property
    def auth_socket(self) -> Path:
        return self.home / "auth"

    def deliver(self, person: str, message: EmailMessage) -> None:
        """Put a message into a person's INBOX, by LMTP."""
        with smtplib.LMTP(str(self.lmtp_socket)) as connection:
            connection.send_message(message, "tests@example.test", [person])

    def inbox(self, person: str) -> list[bytes]:
        """The messages in a person's INBOX as they lie in the Maildir, oldest first."""
        folder = self.home / "mail" / person.partition("@")[0] / "Maildir"
        files = [path for part in ("new", "cur") for path in folder.glob(f"{part}/*")]
        return [path.read_bytes() for path in sorted(files, key=_delivered_at)]

    def empty(self) -> None:
        """Throw away all mail. Nobody may be logged in."""
        for name in PEOPLE:
            make_home(self.home / "mail" / name)


def _delivered_at(file: Path) -> tuple[int, ...]:
    """Seconds and microseconds, which a Maildir name has without leading zeros: `1764036614.M98765P12.host`."""
    return tuple(int(number) for number in re.findall(r"\d+", file.name)[:2])


def at(home: Path, authority: Path) -> Server:
    imap, imaps, pop3, pop3s = free_ports(4)
    return Server(home, authority, imap, imaps, pop3, pop3s)


def make_home(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(0o700)
    if os.geteuid() == 0:
        shutil.chown(path, *mail_owner())


def mail_owner() -> tuple[int, int]:
    """Who owns the mail: an ordinary user, for Dovecot refuses to serve root's."""
    if os.geteuid() != 0:
        return os.getuid(), os.getgid()
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def users() -> dict[str, str]:
    """Whom Dovecot runs as: its own users where root starts it, else whoever starts it."""
    if os.geteuid() == 0:
        return {"internal": "dovecot", "internal_group": "dovecot", "login": "dovenull"}
    me = pwd.getpwuid(os.getuid()).pw_name
    return {"internal": me, "internal_group": "", "login": me}


def write_files(server: Server, provider: Provider, certificates: Certificates) -> None:
    home, (uid, gid) = server.home, mail_owner()
    assert MAIL_SERVER.secret
    credentials = f"{MAIL_SERVER.id}:{MAIL_SERVER.secret.reveal()}@"
    introspection = provider.introspection.replace("http://", f"http://{credentials}")
    lines = [f"{name}@example.test:{{PLAIN}}{PASSWORD}:{uid}:{gid}::{home}/mail/{name}::\n" for name in PEOPLE]
    (home / "passwords").write_text("".join(lines))
    (home / "oauth2.conf").write_text(OAUTH2.substitute(introspection=introspection))
    ports = {name: getattr(server, name) for name in ("imap", "imaps", "pop3", "pop3s")}
    text = CONFIGURATION.substitute(ports, home=home, chain=certificates.chain, key=certificates.key, **users())
    (home / "dovecot.conf").write_text(text)


def launch(server: Server) -> Running:
    dovecot = program("dovecot")
    assert dovecot
    running = start("Dovecot", (dovecot, "-F", "-c", server.home / "dovecot.conf"), server.log)
    return until_ready(running, lambda: all(answers(port, greeting=True) for port in (server.imap, server.pop3)))


@contextlib.contextmanager
def server(provider: Provider, certificates: Certificates) -> Iterator[Server]:
    """Started, with empty Maildirs for PEOPLE at example.test, whose password is PASSWORD."""
    with private_directory("dovecot") as home:
        (home / "mail").mkdir(0o711)
        made: list[Server] = []

        def attempt() -> Running:
            made[:] = [at(home, certificates.authority)]
            write_files(made[0], provider, certificates)
            return launch(made[0])

        with kept_running(attempt):
            made[0].empty()
            yield made[0]
