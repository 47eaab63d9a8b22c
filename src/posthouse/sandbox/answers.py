"""What Exchange Online, and where it has no words of its own a standard server, really answer.

Literal texts, so that whoever reads answers by their words is tried on the true ones. `NAMED` is for fault
switches, which may also give an answer literally.
"""

SMTP_DISABLED_TENANT = (
    "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant. "
    "Visit https://aka.ms/smtp_auth_disabled for more information."
)
SMTP_DISABLED_MAILBOX = (
    "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox. "
    "Visit https://aka.ms/smtp_auth_disabled for more information."
)
SMTP_NO_PASSWORDS = "535 5.7.139 Authentication unsuccessful, basic authentication is disabled."
SMTP_BASIC_RETIRED = "550 5.7.30 Basic authentication is not supported for Client Submission."
SMTP_REFUSED = "535 5.7.3 Authentication unsuccessful"
SMTP_TLS_NEEDED = "451 5.7.3 STARTTLS is required to send mail"
SMTP_NOT_AUTHENTICATED = "530 5.7.57 Client not authenticated to send mail."
SMTP_MAY_NOT_SEND_AS = "550 5.7.60 SMTP; Client does not have permissions to send as this sender"
SMTP_SEND_AS_DENIED = (
    "554 5.2.252 SendAsDenied; {person} not allowed to send as {sender}; STOREDRV.Submission.Exception:"
    "SendAsDeniedException.MapiExceptionSendAsDenied; Failed to process message due to a permanent exception "
    "with message Cannot submit message."
)
SMTP_CONCURRENT = (
    "432 4.3.2 Concurrent connections limit exceeded. Visit https://aka.ms/concurrent_sending for more information."
)
SMTP_TOO_FAST = "421 4.4.2 Message submission rate for this client has exceeded the configured limit"
SMTP_TOO_MANY_RECIPIENTS = "452 4.5.3 Too many recipients"
SMTP_SERVER_ERROR = "451 4.7.0 Temporary server error. Please try again later."
SMTP_MAILBOX_LOGON = (
    "430 4.2.0 STOREDRV; mailbox logon failure; failed to process message due to a transient exception "
    "with message Cannot open mailbox."
)
SMTP_QUOTA = (
    "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException; Failed to process message "
    "due to a permanent exception with message The message can't be submitted because the sender's "
    "submission quota was exceeded."
)
SMTP_MAILBOX_FULL = "554 5.2.2 mailbox full; STOREDRV.Submission.Exception:QuotaExceededException"
SMTP_TOO_LARGE = "552 5.3.4 Message size exceeds fixed limit"
SMTP_UNKNOWN_RECIPIENT = "550 5.1.1 There is no such person or mailbox in this sandbox"
SMTP_CLOSING = "421 4.3.2 Service not available, closing transmission channel"

IMAP_REFUSED = "AUTHENTICATE failed."
IMAP_LOGIN_REFUSED = "LOGIN failed."
IMAP_NOT_CONNECTED = "User is authenticated but not connected."
IMAP_TOO_MANY = "Too many simultaneous connections. (Failure)"
IMAP_THROTTLED = "Request is throttled. Suggested Backoff Time: 89000 milliseconds"
IMAP_UNAVAILABLE = "Server Unavailable. 15"
IMAP_BYE = "Connection closed. 14"

POP3_REFUSED = "Authentication failure: unknown user name or bad password."
POP3_LOGIN_REFUSED = "Logon failure: unknown user name or bad password."
POP3_PROTOCOL_ERROR = "Protocol error. Connection is closed. 10"

NAMED = {
    "smtp-disabled-tenant": SMTP_DISABLED_TENANT,
    "smtp-disabled-mailbox": SMTP_DISABLED_MAILBOX,
    "smtp-no-passwords": SMTP_NO_PASSWORDS,
    "smtp-basic-retired": SMTP_BASIC_RETIRED,
    "smtp-refused": SMTP_REFUSED,
    "smtp-may-not-send-as": SMTP_MAY_NOT_SEND_AS,
    "smtp-concurrent": SMTP_CONCURRENT,
    "smtp-too-fast": SMTP_TOO_FAST,
    "smtp-too-many-recipients": SMTP_TOO_MANY_RECIPIENTS,
    "smtp-server-error": SMTP_SERVER_ERROR,
    "smtp-mailbox-logon": SMTP_MAILBOX_LOGON,
    "smtp-quota": SMTP_QUOTA,
    "smtp-mailbox-full": SMTP_MAILBOX_FULL,
    "smtp-too-large": SMTP_TOO_LARGE,
    "smtp-closing": SMTP_CLOSING,
    "imap-refused": f"NO {IMAP_REFUSED}",
    "imap-not-connected": f"BAD {IMAP_NOT_CONNECTED}",
    "imap-throttled": f"BAD {IMAP_THROTTLED}",
    "imap-unavailable": f"BAD {IMAP_UNAVAILABLE}",
    "pop3-refused": f"-ERR {POP3_REFUSED}",
    "pop3-protocol-error": f"-ERR {POP3_PROTOCOL_ERROR}",
    "pop3-temporary": "-ERR [SYS/TEMP] Please try again later.",
}
