"""A private Postfix for submission: logins by the tests' Dovecot, delivery into it, nothing to anywhere else."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template

from tests.support.certificates import Certificates
from tests.support.dovecot import PEOPLE
from tests.support.dovecot import Server as Dovecot
from tests.support.needs import postfix_master
from tests.support.processes import (
    Running,
    answers,
    free_ports,
    kept_running,
    private_directory,
    start,
    until_ready,
)

PRIVATE = ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved",
           "trace")  # fmt: skip
MAIN = Template("""\
compatibility_level = 3.6
queue_directory = $home/queue
data_directory = $home/data
maillog_file = $home/maillog
maillog_file_prefixes = $home
myhostname = mail.example.test
mydomain = example.test
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
mynetworks = 127.0.0.1/32
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
default_transport = error:5.1.2 nothing leaves this machine
relay_transport = $$default_transport
virtual_mailbox_domains = example.test
virtual_mailbox_maps = texthash:$home/conf/mailboxes
virtual_transport = lmtp:unix:$lmtp
smtpd_sender_login_maps = texthash:$home/conf/senders
smtpd_sender_restrictions = reject_sender_login_mismatch
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = unix:$auth
smtpd_sasl_security_options = noanonymous
smtpd_sasl_authenticated_header = yes
smtpd_tls_cert_file = $chain
smtpd_tls_key_file = $key
smtpd_tls_auth_only = yes
smtpd_tls_loglevel = 1
smtpd_error_sleep_time = 0
smtpd_client_connection_count_limit = 0
smtpd_peername_lookup = no
smtputf8_enable = yes
smtputf8_autodetect_classes = all
minimal_backoff_time = 1s
maximal_backoff_time = 5s
queue_run_delay = 1s
in_flow_delay = 0
""")
MASTER = Template("""\
127.0.0.1:$submission inet n - n - - smtpd -o smtpd_tls_security_level=encrypt
127.0.0.1:$submissions inet n - n - - smtpd -o smtpd_tls_wrappermode=yes
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
""")

DIRECTORIES = (
    ("conf", 0o755, ""),
    ("queue", 0o755, ""),
    ("queue/pid", 0o755, ""),
    ("queue/public", 0o710, "postdrop"),
    ("queue/maildrop", 0o730, "postdrop"),
    *((f"queue/{name}", 0o700, "postfix") for name in PRIVATE),
    ("data", 0o700, "postfix"),
)


@dataclass(frozen=True, slots=True)
class Server:
    """Ports on 127.0.0.1: `submission` wants STARTTLS, `submissions` begins with TLS."""

    home: Path
    authority: Path
    submission: int
    submissions: int
    host: str = "localhost"

    @property
    def log(self) -> Path:
        return self.home / "maillog"


def at(home: Path, authority: Path) -> Server:
    submission, submissions = free_ports(2)
    return Server(home, authority, submission, submissions)


def write_files(server: Server, dovecot: Dovecot, certificates: Certificates) -> None:
    conf = server.home / "conf"
    addresses = [f"{name}@example.test" for name in PEOPLE]
    (conf / "mailboxes").write_text("".join(f"{address} here\n" for address in addresses))
    shared = "support@example.test alice@example.test bob@example.test\n"
    senders = (f"{address} {address}\n" for address in addresses if not address.startswith("support"))
    (conf / "senders").write_text("".join(senders) + shared)
    main = MAIN.substitute(home=server.home, lmtp=dovecot.lmtp_socket, auth=dovecot.auth_socket,
                           chain=certificates.chain, key=certificates.key)  # fmt: skip
    (conf / "main.cf").write_text(main)
    ports = {"submission": str(server.submission), "submissions": str(server.submissions)}
    (conf / "master.cf").write_text(MASTER.substitute(ports))
    for path in conf.iterdir():
        os.utime(path, (0, 0))  # Postfix waits while a file that it reads was written just now


def make_directories(home: Path) -> None:
    """What Postfix's own set-up would make, without its two seconds of shell scripts."""
    for path, mode, group in DIRECTORIES:
        (home / path).mkdir(parents=True)
        (home / path).chmod(mode)
        if group:
            shutil.chown(home / path, "postfix", group)


def launch(server: Server) -> Running:
    conf = server.home / "conf"
    master = postfix_master()
    assert master
    running = start("Postfix", (master, "-c", conf), server.log, new_session=False)
    ports = (server.submission, server.submissions)
    return until_ready(running, lambda: answers(ports[0], greeting=True) and answers(ports[1]))


@contextlib.contextmanager
def server(dovecot: Dovecot, certificates: Certificates) -> Iterator[Server]:
    """Started; PEOPLE may send as themselves, alice and bob also as support."""
    with private_directory("postfix") as home:
        make_directories(home)
        made: list[Server] = []

        def attempt() -> Running:
            made[:] = [at(home, certificates.authority)]
            write_files(made[0], dovecot, certificates)
            return launch(made[0])

        with kept_running(attempt):
            yield made[0]
