"""Puts messages into a folder over IMAP, through Debian's DavMail, which speaks EWS for its clients.

usage: davmail_job.py URL USER PASSWORD ITEMS, with davmail-server on the PATH

Prints one line of JSON: what the caller was told.
"""

import imaplib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

SETTINGS = """
davmail.server=true
davmail.mode=EWS
davmail.url={url}
davmail.imapPort={port}
davmail.smtpPort=
davmail.popPort=
davmail.caldavPort=
davmail.ldapPort=
davmail.bindAddress=127.0.0.1
davmail.disableUpdateCheck=true
davmail.logFilePath={folder}/davmail.log
"""


def connected(port):
    for _ in range(300):
        try:
            return imaplib.IMAP4("127.0.0.1", port, timeout=60)
        except OSError:
            time.sleep(0.1)
    raise OSError("DavMail does not listen")


def main(url, user, password, items):
    told = {"created": 0, "errors": []}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        settings = os.path.join(folder, "davmail.properties")
        with open(settings, "w") as file:
            file.write(SETTINGS.format(url=url, port=port, folder=folder))
        quiet = subprocess.DEVNULL
        davmail = subprocess.Popen(
            ["davmail-server", settings], stdout=quiet, stderr=quiet, start_new_session=True
        )
        try:
            mail = connected(port)
            mail.login(user, password)
            for number in range(items):
                message = f"Subject: job {number}\r\nFrom: {user}\r\n\r\nhello".encode()
                status, text = mail.append("Drafts", None, None, message)
                if status == "OK":
                    told["created"] += 1
                else:
                    told["errors"].append(str(text)[:200])
        except Exception as error:  # What a mail program would be told.
            told["errors"].append(f"{type(error).__name__}: {error}"[:300])
        finally:
            os.killpg(davmail.pid, signal.SIGKILL)
            davmail.wait()
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
