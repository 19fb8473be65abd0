"""A mail server that requires TLS and a login, stores each mail as a file, and has no user unknown."""

from __future__ import annotations

import asyncio
import ssl
import sys
from functools import partial
from pathlib import Path

from aiosmtpd.handlers import Mailbox
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from lab import web


class Mails(Mailbox):
    """Accepts mail for every recipient but one."""

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("unknown@"):
            return "550 No such user here"
        envelope.rcpt_tos.append(address)
        return "250 OK"


def main() -> None:
    """Serve until stopped."""
    options = web.parser("lab.mail_server", __doc__)
    options.add_argument("--folder", required=True)
    options.add_argument("--login", required=True)
    options.add_argument("--password-file", type=Path, required=True)
    options.add_argument("--size", type=int, help="refuse mails with more bytes")
    given = options.parse_args()
    wanted = LoginPassword(given.login.encode(), given.password_file.read_bytes())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(given.certificate, given.key)
    server = partial(
        SMTP,
        Mails(given.folder),
        data_size_limit=given.size,
        tls_context=context,
        require_starttls=True,
        auth_required=True,
        authenticator=lambda *offered: AuthResult(success=offered[-1] == wanted, handled=False),
    )
    loop = asyncio.new_event_loop()
    loop.run_until_complete(loop.create_server(partial(server, loop=loop), given.address, given.port))
    loop.run_forever()


if __name__ == "__main__":
    sys.exit(main())
